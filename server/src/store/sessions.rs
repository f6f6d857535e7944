//! Sessions: which connection speaks for a device, under which number, on which replica.

mod open;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use kernex_proto::{
    ids::{AttemptId, DeviceId, Digest, JournalId},
    v1,
};
use sea_orm::{
    ColumnTrait, Condition, EntityTrait, FromQueryResult, JoinType, QueryFilter, QuerySelect,
    QueryTrait,
    sea_query::{Expr, OnConflict},
};
use uuid::Uuid;

use self::open::number_of_session;
pub(super) use self::open::open;
use super::{
    Result, Store,
    attempts::signed,
    copies,
    devices::not_found,
    entity::{device, lease, session},
    transaction::{ID_CHUNK, Tx, insert_all, padded},
};
use crate::{
    crash::Act,
    domain::{attempt::State, device::DiskFault},
};

pub use super::downloads::DownloadRefused;

/// An authenticated agent that opens a session.
#[derive(Debug, Clone)]
pub struct OpenSession {
    /// The device.
    pub device: DeviceId,
    /// The key it proved to hold.
    pub key: Digest,
    /// Its journal.
    pub journal: JournalId,
    /// Newest epoch it has on disk.
    pub last_epoch: u64,
    /// Revision of the protocol it proved that by.
    pub protocol_revision: u32,
    /// Changes with each boot.
    pub boot_id: String,
    /// Version of the agent program.
    pub agent_version: String,
    /// What the machine is.
    pub inventory: v1::Inventory,
    /// Every attempt that is open or unacknowledged in its journal; complete.
    pub held: Vec<HeldAttempt>,
    /// Every outcome numbered up to this was acknowledged to it; none when it does not say.
    pub acknowledged_seq: Option<u64>,
    /// Hash of the session token it is about to get.
    pub token_hash: Digest,
    /// The replica it is connected to.
    pub replica: Uuid,
}

/// An attempt in an agent's journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldAttempt {
    /// Which one.
    pub attempt: AttemptId,
    /// Accepted, running, or a final state whose outcome waits for its ack.
    pub state: State,
}

/// The session's number and what the agent is to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenedSession {
    /// Newest wins.
    pub epoch: u64,
    /// Device name on the server.
    pub name: String,
    /// Two copies were seen; it gets no commands.
    pub conflicted: bool,
    /// Every outcome of its journal numbered up to this is recorded; none when that is not known.
    pub recorded_seq: Option<u64>,
    /// What was last known to be wrong with the disk of its state folder.
    pub disk_fault: Option<DiskFault>,
    /// What it holds and is not to go on with.
    pub stops: Vec<(AttemptId, v1::Stop)>,
}

/// Grace for the sessions of a replica whose lease ran out: it may only have been slow.
pub const LEASE_GRACE: Duration = Duration::from_secs(60);

impl Store {
    /// Ends every session of a replica that starts or stops, and those nobody can hold any more.
    pub async fn close_replica_sessions(&self, replica: Uuid) -> Result<()> {
        let mut theirs = Condition::any().add(session::Column::Replica.eq(replica));
        if self.is_alone() {
            // Whoever held the others was an earlier process with the same file.
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

    /// Ends sessions of replicas whose lease ran out a while ago. Only a replica that could renew its own lease all that
    /// time may say so of another: when the database was away, everybody's ran out. Does nothing while the clock is not
    /// to be trusted.
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
            end(&tx, &ended).await
        })
        .await
    }

    /// Those of a replica's open sessions that are over without its knowledge: the device has a newer one on another
    /// replica, or an operator decided between copies of it. `here` has to be read before this is asked.
    pub async fn sessions_lost(
        &self,
        replica: Uuid,
        here: &[(DeviceId, u64)],
    ) -> Result<Vec<(DeviceId, u64)>> {
        let held: BTreeSet<(Uuid, i64)> = session::Entity::find()
            .select_only()
            .columns([session::Column::DeviceId, session::Column::Epoch])
            .filter(session::Column::Replica.eq(replica))
            .into_tuple()
            .all(self.reader())
            .await?
            .into_iter()
            .collect();
        let lost = here
            .iter()
            .filter(|(device, epoch)| !held.contains(&(device.0, signed(*epoch))));
        Ok(lost.copied().collect())
    }

    /// Whether this is the session of its device.
    pub async fn is_session(&self, device: DeviceId, epoch: u64) -> Result<bool> {
        let session = session::Entity::find_by_id(device.0)
            .one(self.reader())
            .await?;
        Ok(session.is_some_and(|session| session.epoch == signed(epoch)))
    }

    /// Says that a replica lives for another `ttl`.
    pub async fn renew_lease(&self, replica: Uuid, ttl: Duration) -> Result<()> {
        self.write_beside(|tx| async move {
            let row = lease::Model {
                replica,
                expires_at: tx.now.plus(ttl).0,
            };
            let renewed = OnConflict::column(lease::Column::Replica)
                .update_column(lease::Column::ExpiresAt)
                .to_owned();
            insert_all::<lease::Entity>(&tx.db, vec![row], Some(renewed)).await?;
            Ok(())
        })
        .await
    }
}

/// Notes that agents have the numbers of their sessions on disk, and answers each in its place; the devices are different
/// ones. What is refused has changed nothing.
pub(super) async fn confirm(tx: &Tx, numbered: &[(DeviceId, u64)]) -> Result<Vec<Result<()>>> {
    let sessions = show(tx, numbered).await?;
    let mut sound = Vec::with_capacity(sessions.len());
    for (device, session) in &sessions {
        if session.conflicted {
            copies::confirm(tx, *device, session.journal_id, session.epoch).await?;
        } else {
            sound.push(*device);
        }
    }
    // A session has the newest number of its device, so what was confirmed before is less.
    let confirmed = device::Entity::update_many()
        .col_expr(device::Column::ConfirmedEpoch, number_of_session())
        .filter(device::Column::Id.is_in(padded(sound)));
    tx.db.later(confirmed.as_query()).await?;
    Ok(answers(numbered, &sessions))
}

/// Notes that devices are here whose agents cannot write the numbers of their sessions down, and answers each in its place. Such
/// a number proves nothing when the journal comes back with an older one.
pub(super) async fn ail(tx: &Tx, numbered: &[(DeviceId, u64)]) -> Result<Vec<Result<()>>> {
    let sessions = show(tx, numbered).await?;
    Ok(answers(numbered, &sessions))
}

/// The devices are online from now on.
async fn show(tx: &Tx, numbered: &[(DeviceId, u64)]) -> Result<BTreeMap<Uuid, Numbered>> {
    let sessions = open_among(tx, numbered).await?;
    let shown = session::Entity::update_many()
        .col_expr(session::Column::ConfirmedAt, Expr::value(tx.now.0))
        .filter(session::Column::DeviceId.is_in(padded(sessions.keys().copied())));
    tx.db.later(shown.as_query()).await?;
    for (device, session) in &sessions {
        tx.device_event("device.online", *device, &session.name);
    }
    Ok(sessions)
}

fn answers(numbered: &[(DeviceId, u64)], sessions: &BTreeMap<Uuid, Numbered>) -> Vec<Result<()>> {
    let answer = |(device, epoch): &(DeviceId, u64)| {
        let is_open = sessions.contains_key(&device.0);
        let missing = || not_found("session", format_args!("{device}#{epoch}"));
        is_open.then_some(()).ok_or_else(missing)
    };
    numbered.iter().map(answer).collect()
}

/// Ends sessions, unless newer ones took over.
pub(super) async fn close(tx: &Tx, numbered: &[(DeviceId, u64)]) -> Result<()> {
    let sessions = open_among(tx, numbered).await?;
    delete(tx, sessions.keys().copied()).await?;
    for (device, session) in &sessions {
        tx.device_event("device.offline", *device, &session.name);
    }
    Ok(())
}

/// An open session and what events and copies need of its device.
#[derive(FromQueryResult)]
struct Numbered {
    device_id: Uuid,
    epoch: i64,
    journal_id: Uuid,
    name: String,
    conflicted: bool,
}

/// Those of these sessions that are still their devices', by device.
async fn open_among(tx: &Tx, numbered: &[(DeviceId, u64)]) -> Result<BTreeMap<Uuid, Numbered>> {
    let asked: BTreeMap<Uuid, i64> = numbered
        .iter()
        .map(|(device, epoch)| (device.0, signed(*epoch)))
        .collect();
    let device = session::Entity::belongs_to(device::Entity)
        .from(session::Column::DeviceId)
        .to(device::Column::Id);
    let sessions: Vec<Numbered> = session::Entity::find()
        .select_only()
        .columns([
            session::Column::DeviceId,
            session::Column::Epoch,
            session::Column::JournalId,
        ])
        .columns([device::Column::Name, device::Column::Conflicted])
        .join(JoinType::InnerJoin, device.into())
        .filter(session::Column::DeviceId.is_in(padded(asked.keys().copied())))
        .into_model()
        .all(&tx.db)
        .await?;
    Ok(sessions
        .into_iter()
        .filter(|session| asked.get(&session.device_id) == Some(&session.epoch))
        .map(|session| (session.device_id, session))
        .collect())
}

/// Ends the sessions of these devices.
async fn end(tx: &Tx, ids: &[Uuid]) -> Result<()> {
    for chunk in ids.chunks(ID_CHUNK) {
        let ids = || chunk.iter().copied();
        delete(tx, ids()).await?;
        for device in devices(tx, ids()).await? {
            tx.device_event("device.offline", device.id, &device.name);
        }
    }
    Ok(())
}

async fn delete(tx: &Tx, ids: impl Iterator<Item = Uuid>) -> Result<()> {
    let ended = session::Entity::delete_many().filter(session::Column::DeviceId.is_in(padded(ids)));
    Ok(tx.db.later(ended.as_query()).await?)
}

async fn devices(tx: &Tx, ids: impl Iterator<Item = Uuid>) -> Result<Vec<Named>> {
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
struct Named {
    id: Uuid,
    name: String,
}
