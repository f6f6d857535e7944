//! Ends sessions: one that closed, those of a replica, those that no live replica holds.

use std::time::Duration;

use kernex_proto::ids::DeviceId;
use sea_orm::{
    ColumnTrait, Condition, EntityTrait, FromQueryResult, QueryFilter, QuerySelect, QueryTrait,
};
use uuid::Uuid;

use crate::{
    crash::Act,
    store::{
        db::{
            error::Result,
            sizes::{ID_CHUNK, padded},
            store::Store,
            transaction::Tx,
        },
        entity::{device, lease, session, stored::Stored},
        read::sessions::still_open,
    },
};

/// How long after its lease ran out a replica keeps its sessions. It may only have been slow.
pub const LEASE_GRACE: Duration = Duration::from_secs(60);

impl Store {
    /// Ends every session of a replica that starts or stops, and those that no live replica holds.
    pub async fn close_replica_sessions(&self, replica: Uuid) -> Result<()> {
        let mut theirs = Condition::any().add(session::Column::Replica.eq(replica));
        if self.is_alone() {
            // SQLite: the others were held by an earlier process with the same file.
            theirs = Condition::all();
        }
        self.close_where(theirs).await?;
        self.write_beside(|tx| async move {
            lease::Entity::delete_by_id(replica).exec(&tx.db).await?;
            Ok(())
        })
        .await?;
        self.close_orphans().await
    }

    /// Ends sessions of replicas whose lease ran out a while ago. Only a replica that could renew
    /// its own lease all that time may call this: when the database was away, every lease ran out.
    /// Does nothing while the clock is not trusted.
    pub async fn close_orphans(&self) -> Result<()> {
        let Some(now) = self.time() else {
            return Ok(());
        };
        let before = now.minus(LEASE_GRACE).0;
        let alive = lease::Entity::find()
            .filter(lease::Column::ExpiresAt.gt(before))
            .all(self.reader())
            .await?;
        let orphans = Condition::all()
            .add(session::Column::Replica.is_not_in(alive.into_iter().map(|lease| lease.replica)))
            .add(session::Column::OpenedAt.lt(before));
        self.close_where(orphans).await
    }

    async fn close_where(&self, which: Condition) -> Result<()> {
        let which = &which;
        self.write_as(Act::CommitClose, |tx| async move {
            let ended = session::Entity::find()
                .select_only()
                .column(session::Column::DeviceId)
                .filter(which.clone())
                .into_tuple()
                .all(&tx.db)
                .await?;
            close_sessions_of(&tx, &ended).await
        })
        .await
    }
}

/// Ends sessions, unless newer ones took over.
pub(crate) async fn close_sessions(tx: &Tx, numbered: &[(DeviceId, u64)]) -> Result<()> {
    let sessions = still_open(tx, numbered).await?;
    delete(tx, sessions.keys().copied()).await?;
    for (device, session) in &sessions {
        tx.device_event("device.offline", device.0, &session.name);
    }
    Ok(())
}

/// Ends the sessions of these devices.
async fn close_sessions_of(tx: &Tx, ids: &[Stored<DeviceId>]) -> Result<()> {
    for chunk in ids.chunks(ID_CHUNK) {
        let ids = || chunk.iter().copied();
        delete(tx, ids()).await?;
        for device in devices(tx, ids()).await? {
            tx.device_event("device.offline", device.id.0, &device.name);
        }
    }
    Ok(())
}

async fn delete(tx: &Tx, ids: impl Iterator<Item = Stored<DeviceId>>) -> Result<()> {
    let ended = session::Entity::delete_many().filter(session::Column::DeviceId.is_in(padded(ids)));
    Ok(tx.db.later(ended.as_query()).await?)
}

async fn devices(tx: &Tx, ids: impl Iterator<Item = Stored<DeviceId>>) -> Result<Vec<NamedDevice>> {
    let rows = device::Entity::find()
        .select_only()
        .columns([device::Column::Id, device::Column::Name])
        .filter(device::Column::Id.is_in(padded(ids)))
        .into_model()
        .all(&tx.db)
        .await?;
    Ok(rows)
}

/// What events need of a device.
#[derive(FromQueryResult)]
struct NamedDevice {
    id: Stored<DeviceId>,
    name: String,
}
