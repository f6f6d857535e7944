//! What happened, in commit order.

use kernex_proto::ids::{DeploymentId, DeviceId};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use crate::{
    clock::Timestamp,
    store::{
        db::{
            error::Result,
            store::Store,
            values::{signed, unsigned},
        },
        entity::{cluster, event},
    },
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
            device: row.device_id.map(|id| id.0),
            deployment: row.deployment_id.map(|id| id.0),
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
}
