//! What happened, in commit order.

use std::collections::{BTreeSet, HashMap};

use kernex_proto::ids::{DeploymentId, DeviceId};
use sea_orm::{ColumnTrait, QueryFilter, QueryOrder, QuerySelect};

use crate::{
    clock::Timestamp,
    store::{
        db::{
            error::Result,
            sizes::{ID_CHUNK, padded},
            values::{signed, unsigned},
        },
        entity::{cluster, deployment, device, event, stored::Stored},
        read::{
            bundles::shown_bundle,
            scope::{Scope, View},
        },
    },
};

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRow {
    /// Grows in commit order.
    pub cursor: u64,
    pub at: Timestamp,
    /// Kind in dotted lower case.
    pub kind: String,
    /// The device it is about.
    pub device: Option<DeviceId>,
    /// The deployment it is about.
    pub deployment: Option<DeploymentId>,
    /// Name of the device, while it exists.
    pub device_name: Option<String>,
    /// Name of the deployment, if it has one.
    pub deployment_name: Option<String>,
    /// The bundle of the deployment: "name:version", or only the name.
    pub bundle: Option<String>,
    /// Details by kind, as a JSON object.
    pub detail_json: String,
}

/// What events say of a deployment.
struct Order {
    name: Option<String>,
    bundle: String,
}

impl EventRow {
    /// Whether a watcher of this scope may see it. Events are read once for all watchers, so each
    /// watcher's are chosen afterwards.
    #[must_use]
    pub const fn is_in(&self, scope: Scope) -> bool {
        match scope {
            Scope::Everything => true,
        }
    }
}

/// The cursors of the events that are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventBounds {
    /// The first that is kept; one more than `newest` when none is.
    pub oldest: u64,
    /// The last that happened, kept or not.
    pub newest: u64,
}

impl EventBounds {
    /// Whether every event after a cursor is still kept. A cursor of 0 takes what there is.
    #[must_use]
    pub const fn reach(self, cursor: u64) -> bool {
        cursor == 0 || (cursor <= self.newest && cursor + 1 >= self.oldest)
    }
}

impl View {
    /// Events after a cursor, oldest first.
    pub async fn events_after(&self, cursor: u64, limit: u32) -> Result<Vec<EventRow>> {
        let rows = self
            .rows::<event::Entity>()
            .filter(event::Column::Cursor.gt(signed(cursor)))
            .order_by_asc(event::Column::Cursor)
            .limit(u64::from(limit.max(1)))
            .all(self.reader())
            .await?;
        let names = self.names_of(&rows).await?;
        let deployments = self.deployments_of(&rows).await?;
        let rows = rows.into_iter().map(|row| {
            let deployment = row.deployment_id.and_then(|id| deployments.get(&id));
            EventRow {
                cursor: unsigned(row.cursor),
                at: Timestamp(row.at),
                kind: row.kind,
                device_name: row.device_id.and_then(|id| names.get(&id).cloned()),
                deployment_name: deployment.and_then(|order| order.name.clone()),
                bundle: deployment.map(|order| order.bundle.clone()),
                device: row.device_id.map(|id| id.0),
                deployment: row.deployment_id.map(|id| id.0),
                detail_json: row.detail,
            }
        });
        Ok(rows.collect())
    }

    /// The names of the devices that events are about. Events are read once for all watchers, so
    /// that reading names costs less than writing them with each event.
    async fn names_of(&self, rows: &[event::Model]) -> Result<HashMap<Stored<DeviceId>, String>> {
        let ids: BTreeSet<Stored<DeviceId>> = rows.iter().filter_map(|row| row.device_id).collect();
        let ids: Vec<Stored<DeviceId>> = ids.into_iter().collect();
        let mut names = HashMap::new();
        for chunk in ids.chunks(ID_CHUNK) {
            let found: Vec<(Stored<DeviceId>, String)> = self
                .rows::<device::Entity>()
                .select_only()
                .columns([device::Column::Id, device::Column::Name])
                .filter(device::Column::Id.is_in(padded(chunk.iter().copied())))
                .into_tuple()
                .all(self.reader())
                .await?;
            names.extend(found);
        }
        Ok(names)
    }

    /// What is said of the deployments that events are about.
    async fn deployments_of(
        &self,
        rows: &[event::Model],
    ) -> Result<HashMap<Stored<DeploymentId>, Order>> {
        let ids: BTreeSet<Stored<DeploymentId>> =
            rows.iter().filter_map(|row| row.deployment_id).collect();
        let ids: Vec<Stored<DeploymentId>> = ids.into_iter().collect();
        let mut orders = HashMap::new();
        for chunk in ids.chunks(ID_CHUNK) {
            let found: Vec<(Stored<DeploymentId>, String, String, String)> = self
                .rows::<deployment::Entity>()
                .select_only()
                .columns([
                    deployment::Column::Id,
                    deployment::Column::Name,
                    deployment::Column::BundleName,
                    deployment::Column::BundleVersion,
                ])
                .filter(deployment::Column::Id.is_in(padded(chunk.iter().copied())))
                .into_tuple()
                .all(self.reader())
                .await?;
            let found = found.into_iter();
            orders.extend(found.map(|(id, name, bundle, version)| {
                let order = Order {
                    name: (!name.is_empty()).then_some(name),
                    bundle: shown_bundle(bundle, &version),
                };
                (id, order)
            }));
        }
        Ok(orders)
    }

    /// The oldest event that is kept and did not happen before a moment.
    pub async fn first_event_since(&self, moment: Timestamp) -> Result<Option<u64>> {
        // In the order of time, for which there is an index; of the same moment by cursor.
        let first = self
            .rows::<event::Entity>()
            .filter(event::Column::At.gte(moment.0))
            .order_by_asc(event::Column::At)
            .order_by_asc(event::Column::Cursor)
            .one(self.reader())
            .await?;
        Ok(first.map(|row| unsigned(row.cursor)))
    }

    /// Which events are kept.
    pub async fn event_bounds(&self) -> Result<EventBounds> {
        let newest = self
            .rows::<cluster::Entity>()
            .one(self.reader())
            .await?
            .map_or(0, |row| row.event_cursor);
        let oldest = self
            .rows::<event::Entity>()
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
