//! What happened, in commit order; and what time does: deadlines and retention.

use std::time::Duration;

use kernex_proto::ids::{DeploymentId, DeviceId};
use sea_orm::{
    ColumnTrait, Condition, DeleteMany, EntityTrait, QueryFilter, QueryOrder, QuerySelect,
};

use serde_json::json;

use super::{
    Result, Store,
    attempts::{Batch, is_unresolved, signed, unsigned},
    entity::{
        attempt, audit, cluster, device_key, event, heartbeat_sample, request, unknown_report,
    },
    revocations::REMEMBERED,
    schedules::close_overdue,
    transaction::Deciding,
};
use crate::{
    clock::Timestamp,
    crash::Act,
    domain::attempt::{Closing, State},
};

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRow {
    /// Grows in commit order.
    pub cursor: u64,
    /// When.
    pub at: Timestamp,
    /// Kind in dotted lower case.
    pub kind: String,
    /// The device it is about.
    pub device: Option<DeviceId>,
    /// The deployment it is about.
    pub deployment: Option<DeploymentId>,
    /// More, as a JSON object.
    pub detail_json: String,
}

/// The cursors of the events that are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventBounds {
    /// The first one; one more than `newest` when none is kept.
    pub oldest: u64,
    /// The last one that happened.
    pub newest: u64,
}

impl EventBounds {
    /// Whether everything after a cursor can be had; after 0 it is whatever is kept.
    #[must_use]
    pub const fn reach(self, cursor: u64) -> bool {
        cursor == 0 || (cursor <= self.newest && cursor + 1 >= self.oldest)
    }
}

/// How long what grows is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Events.
    pub events: Duration,
    /// Sampled heartbeats.
    pub samples: Duration,
    /// Audit rows.
    pub audit: Duration,
    /// Answers to request ids.
    pub requests: Duration,
    /// Reports of attempts nobody knows.
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

/// Attempts that expire in one transaction.
const EXPIRE_CHUNK: u64 = 1000;

impl Store {
    /// Events after a cursor, oldest first.
    pub async fn events_after(&self, cursor: u64, limit: u32) -> Result<Vec<EventRow>> {
        let rows = event::Entity::find()
            .filter(event::Column::Cursor.gt(signed(cursor)))
            .order_by_asc(event::Column::Cursor)
            .limit(u64::from(limit.max(1)))
            .all(self.reader())
            .await?;
        let rows = rows.into_iter().map(|row| EventRow {
            cursor: unsigned(row.cursor),
            at: Timestamp(row.at),
            kind: row.kind,
            device: row.device_id.map(DeviceId),
            deployment: row.deployment_id.map(DeploymentId),
            detail_json: row.detail,
        });
        Ok(rows.collect())
    }

    /// Which events are kept.
    pub async fn event_bounds(&self) -> Result<EventBounds> {
        let newest = cluster::Entity::find()
            .one(self.reader())
            .await?
            .map_or(0, |row| row.event_cursor);
        let oldest = event::Entity::find()
            .order_by_asc(event::Column::Cursor)
            .one(self.reader())
            .await?
            .map_or(newest + 1, |row| row.cursor);
        Ok(EventBounds {
            oldest: unsigned(oldest),
            newest: unsigned(newest),
        })
    }

    /// Closes what is past its deadline; says how many attempts expired. Does nothing while the clock is not to be
    /// trusted.
    pub async fn expire_due(&self) -> Result<u64> {
        let mut expired = 0;
        loop {
            let (closed, more) = self
                .decide(|tx| async move { close_overdue(&tx).await })
                .await?;
            expired += closed;
            if !more {
                break;
            }
        }
        loop {
            let chunk = self
                .decide_as(
                    Act::CommitExpiry,
                    |tx| async move { expire_chunk(&tx).await },
                )
                .await?;
            expired += chunk;
            if chunk < EXPIRE_CHUNK {
                return Ok(expired);
            }
        }
    }

    /// Writes down that deadlines stopped counting because the clock jumped, or count again.
    pub async fn note_clock(&self, trusted: bool) -> Result<()> {
        let kind = if trusted {
            "server.clock_steady"
        } else {
            "server.clock_jumped"
        };
        let detail = &json!({ "drift_seconds": self.clock_drift().as_secs() });
        self.write(|tx| async move {
            tx.event(kind, None, None, detail.clone());
            Ok(())
        })
        .await
    }

    /// Deletes what is older than its retention, unless the clock is not to be trusted.
    pub async fn prune(&self, retention: Retention) -> Result<()> {
        self.0.event_limit.forget();
        let Some(now) = self.time() else {
            return Ok(());
        };
        let before = |kept: Duration| now.minus(kept).0;
        // A transaction each, so that none holds the writer for long.
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
        let keys = device_key::Column::RevokedAt.lt(before(REMEMBERED));
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

async fn expire_chunk(tx: &Deciding) -> Result<u64> {
    // Asked here and not before: the clock may have jumped while this waited for its turn to write.
    let Some(now) = tx.time() else {
        return Ok(0);
    };
    let waiting = Condition::all()
        .add(
            attempt::Column::State
                .is_in([State::Held, State::Pending, State::Sent].map(State::as_str)),
        )
        .add(attempt::Column::DeliveryDeadline.lte(now.0));
    let working = Condition::all()
        .add(attempt::Column::State.is_in([State::Accepted, State::Running].map(State::as_str)))
        .add(attempt::Column::ExecutionDeadline.lte(now.0));
    let past = Condition::all()
        .add(is_unresolved())
        .add(Condition::any().add(waiting).add(working));
    let mut batch = Batch::deciding(tx);
    batch.load(past, Some(EXPIRE_CHUNK)).await?;
    for (_, entry) in batch.iter_mut() {
        let _ = entry.close(tx, Closing::Tick, now);
    }
    batch.save().await
}
