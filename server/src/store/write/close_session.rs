//! Ends sessions: one that closed, those of a replica, and those that no living replica holds.

use std::time::Duration;

use kernex_proto::ids::DeviceId;
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, EntityTrait, FromQueryResult, QueryFilter,
    QuerySelect, QueryTrait, sea_query::Expr,
};
use serde_json::json;

use crate::{
    crash::Act,
    domain::device::away::{Away, AwayReason},
    store::{
        db::{
            error::Result,
            new_event::Subject,
            sizes::{ID_CHUNK, padded},
            store::Store,
            transaction::Tx,
            values::head,
        },
        entity::{
            device, lease, session,
            stored::{ReplicaId, Stored},
        },
        read::sessions::still_open,
    },
};

/// How long a replica keeps its sessions after the end of its lease. It may only have been slow.
pub const LEASE_GRACE: Duration = Duration::from_secs(60);

/// Most bytes of the detail of a reason that are kept.
const MAX_DETAIL: usize = 1024;

impl Store {
    /// Ends all sessions of a replica that starts or stops, and those that no living replica holds.
    pub async fn close_replica_sessions(&self, replica: ReplicaId, why: AwayReason) -> Result<()> {
        let mut theirs = Condition::any().add(session::Column::Replica.eq(Stored(replica)));
        if self.is_alone() {
            // SQLite: an earlier process with the same file held all others.
            theirs = Condition::all();
        }
        self.close_where(theirs, why).await?;
        self.write_beside(|tx| async move {
            lease::Entity::delete_by_id(Stored(replica))
                .exec(&tx.db)
                .await?;
            Ok(())
        })
        .await?;
        self.close_orphans().await
    }

    /// Ends sessions of replicas whose lease ended a while ago. Only a replica that could renew its
    /// own lease all that time may call this: while the database is away, all leases end. Does
    /// nothing while the clock is not trusted.
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
        self.close_where(orphans, AwayReason::ServerGone).await
    }

    async fn close_where(&self, which: Condition, why: AwayReason) -> Result<()> {
        let which = &which;
        self.write_as(Act::CommitClose, |tx| async move {
            let ended = session::Entity::find()
                .select_only()
                .column(session::Column::DeviceId)
                .filter(which.clone())
                .into_tuple()
                .all(&tx.db)
                .await?;
            close_sessions_of(&tx, &ended, &why.into()).await
        })
        .await
    }
}

/// Ends sessions and notes why, unless newer ones have taken over.
pub(crate) async fn close_sessions(tx: &Tx, ended: &[(DeviceId, u64, &Away)]) -> Result<()> {
    let numbered: Vec<(DeviceId, u64)> = ended.iter().map(|one| (one.0, one.1)).collect();
    let sessions = still_open(tx, &numbered).await?;
    delete(tx, sessions.keys().copied()).await?;
    // Most sessions that end together end for the same reason.
    let mut alike: Vec<(&Away, Vec<Stored<DeviceId>>)> = Vec::new();
    for (device, _, away) in ended {
        let Some(session) = sessions.get(&Stored(*device)) else {
            continue;
        };
        announce(tx, *device, &session.name, away);
        match alike.iter_mut().find(|(known, _)| known == away) {
            Some((_, devices)) => devices.push(Stored(*device)),
            None => alike.push((*away, vec![Stored(*device)])),
        }
    }
    for (away, devices) in alike {
        note_away(tx, devices, away).await?;
    }
    Ok(())
}

fn announce(tx: &Tx, device: DeviceId, name: &str, away: &Away) {
    let mut detail = json!({ "name": name, "reason": away.reason.as_str() });
    if !away.detail.is_empty() {
        detail["message"] = json!(away.detail);
    }
    tx.event("device.offline", Subject::Device(device), detail);
}

/// Notes since when devices are away, and why.
async fn note_away(tx: &Tx, devices: Vec<Stored<DeviceId>>, away: &Away) -> Result<()> {
    let noted = device::Entity::update_many()
        .col_expr(device::Column::AwaySince, Expr::value(tx.now.0))
        .col_expr(
            device::Column::AwayReason,
            Expr::value(away.reason.as_str()),
        )
        .col_expr(
            device::Column::AwayDetail,
            Expr::value(head(&away.detail, MAX_DETAIL)),
        )
        .filter(device::Column::Id.is_in(padded(devices)));
    tx.db.execute(noted.as_query()).await?;
    Ok(())
}

/// Ends the sessions of these devices.
async fn close_sessions_of(tx: &Tx, ids: &[Stored<DeviceId>], away: &Away) -> Result<()> {
    for chunk in ids.chunks(ID_CHUNK) {
        let ids = || chunk.iter().copied();
        delete(tx, ids()).await?;
        note_away(tx, chunk.to_vec(), away).await?;
        for device in devices(tx, ids()).await? {
            announce(tx, device.id.0, &device.name, away);
        }
    }
    Ok(())
}

async fn delete(tx: &Tx, ids: impl Iterator<Item = Stored<DeviceId>>) -> Result<()> {
    let ended = session::Entity::delete_many().filter(session::Column::DeviceId.is_in(padded(ids)));
    tx.db.execute(ended.as_query()).await?;
    Ok(())
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

/// The columns of a device that an event needs.
#[derive(FromQueryResult)]
struct NamedDevice {
    id: Stored<DeviceId>,
    name: String,
}
