//! Deletes what is older than its retention.

use std::time::Duration;

use sea_orm::{ColumnTrait, DeleteMany, EntityTrait, QueryFilter};

use crate::store::{
    db::{error::Result, store::Store},
    entity::{audit, device_key, event, heartbeat_sample, request, unknown_report},
    write::revoke::REVOCATIONS_KEPT,
};

/// How long rows are kept that would grow without end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    pub events: Duration,
    /// Samples of heartbeats.
    pub samples: Duration,
    pub audit: Duration,
    /// Answers to repeated requests.
    pub requests: Duration,
    /// Reports of attempts that the database does not know.
    pub unknown_reports: Duration,
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl Default for Retention {
    fn default() -> Self {
        Self {
            events: DAY * 30,
            samples: DAY * 7,
            audit: DAY * 365,
            requests: DAY,
            unknown_reports: DAY * 30,
        }
    }
}

impl Store {
    /// Deletes what is older than its retention. Does nothing while the clock is not trusted.
    pub async fn prune(&self, retention: Retention) -> Result<()> {
        self.event_limit().forget();
        let Some(now) = self.time() else {
            return Ok(());
        };
        let before = |kept: Duration| now.minus(kept).0;
        // One transaction for each table, so that none holds the writer for long.
        self.delete(
            event::Entity::delete_many().filter(event::Column::At.lt(before(retention.events))),
        )
        .await?;
        let samples = heartbeat_sample::Column::At.lt(before(retention.samples));
        self.delete(heartbeat_sample::Entity::delete_many().filter(samples))
            .await?;
        self.delete(
            audit::Entity::delete_many().filter(audit::Column::At.lt(before(retention.audit))),
        )
        .await?;
        let requests = request::Column::CreatedAt.lt(before(retention.requests));
        self.delete(request::Entity::delete_many().filter(requests))
            .await?;
        let keys = device_key::Column::RevokedAt.lt(before(REVOCATIONS_KEPT));
        self.delete(device_key::Entity::delete_many().filter(keys))
            .await?;
        let unknown = unknown_report::Column::At.lt(before(retention.unknown_reports));
        self.delete(unknown_report::Entity::delete_many().filter(unknown))
            .await
    }

    async fn delete<E: EntityTrait>(&self, rows: DeleteMany<E>) -> Result<()> {
        let rows = &rows;
        self.write_beside(|tx| async move {
            rows.clone().exec(&tx.db).await?;
            Ok(())
        })
        .await
    }
}
