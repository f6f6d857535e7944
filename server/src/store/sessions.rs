//! Sessions: which connection speaks for a device, under which number, on which replica.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use kernex_proto::{
    ids::{AttemptId, DeviceId, Digest, JournalId, TargetId},
    v1,
};
use sea_orm::{
    ColumnTrait, Condition, EntityTrait, QueryFilter, QuerySelect,
    sea_query::{Expr, OnConflict},
};
use uuid::Uuid;

use super::{
    Result, Store, StoreError,
    attempts::{Batch, signed, unsigned},
    copies,
    devices::{built_in, clean, described, find_device, not_found, update},
    dynamic::join,
    entity::{attempt, device, device_key, journal, lease, session},
    transaction::{ID_CHUNK, Tx, insert_all},
};
use crate::{
    crash::Act,
    domain::{
        attempt::{Event, State},
        device::{Known, Return, next_epoch, recognise},
    },
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
    /// Changes with each boot.
    pub boot_id: String,
    /// Version of the agent program.
    pub agent_version: String,
    /// What the machine is.
    pub inventory: v1::Inventory,
    /// Every attempt that is open or unacknowledged in its journal; complete.
    pub held: Vec<HeldAttempt>,
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
}

/// Grace for the sessions of a replica whose lease ran out: it may only have been slow.
pub const LEASE_GRACE: Duration = Duration::from_secs(60);

impl Store {
    /// Numbers and opens a session and settles the agent's complete list of attempts, in one transaction. `NotFound` when
    /// the device or its key is gone since it was asked for.
    pub async fn open_session(&self, opening: OpenSession) -> Result<OpenedSession> {
        let opening = &opening;
        self.write_as(
            Act::CommitSession,
            |tx| async move { open(&tx, opening).await },
        )
        .await
    }

    /// The agent has the epoch on disk; from now on it is online.
    pub async fn confirm_session(&self, device: DeviceId, epoch: u64) -> Result<()> {
        self.write_as(Act::CommitReady, |tx| async move {
            confirm(&tx, device, epoch).await
        })
        .await
    }

    /// Ends a session, unless a newer one took over.
    pub async fn close_session(&self, device: DeviceId, epoch: u64) -> Result<()> {
        self.close_where(numbered(device, epoch)).await
    }

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
            close(&tx, which.clone()).await
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

/// The session of this device with this number.
pub(super) fn numbered(device: DeviceId, epoch: u64) -> Condition {
    Condition::all()
        .add(session::Column::DeviceId.eq(device.0))
        .add(session::Column::Epoch.eq(signed(epoch)))
}

/// Numbers and opens a session. What is refused has changed nothing.
pub(super) async fn open(tx: &Tx, open: &OpenSession) -> Result<OpenedSession> {
    let mut row = speaking_device(tx, open).await?;
    let journal = journal::Entity::find_by_id((open.device.0, open.journal.0))
        .one(&tx.db)
        .await?;
    let known = Known {
        journal: row.journal_id.map(JournalId),
        retired: journal
            .as_ref()
            .is_some_and(|journal| journal.retired_at.is_some()),
        given_up_below: journal.map_or(0, |journal| unsigned(journal.given_up_below)),
        issued_epoch: unsigned(row.epoch),
        confirmed_epoch: unsigned(row.confirmed_epoch),
    };
    let epoch = next_epoch(&known, open.last_epoch);
    let was_conflicted = row.conflicted;
    let returned = recognise(&known, open.journal, open.last_epoch);
    match returned {
        Return::Same => {}
        // Among several copies a new journal is one more.
        Return::Fresh if was_conflicted => {
            copies::conflict(tx, &mut row, open.journal.0).await?;
        }
        Return::Fresh => copies::begin(tx, &mut row, open.journal.0).await?,
        Return::Fork => copies::conflict(tx, &mut row, open.journal.0).await?,
        Return::GivenUp => return Err(StoreError::CopyGivenUp(row.name)),
    }
    let before = row.clone();
    row = described(row, &open.inventory);
    row.epoch = signed(epoch);
    row.last_seen = Some(tx.now.0);
    row.agent_version = clean(&open.agent_version);
    row.boot_id = clean(&open.boot_id);
    let opened = OpenedSession {
        epoch,
        name: row.name.clone(),
        conflicted: row.conflicted,
    };
    if opened.conflicted && !was_conflicted {
        tracing::warn!(device = %open.device, journal = %open.journal, "two copies of a device were seen");
        tx.device_event("device.conflicted", row.id, &row.name);
    }
    let is_news = built_in(&before) != built_in(&row);
    update(tx, row).await?;
    write_session(tx, open, epoch).await?;
    // A copy's list says nothing about what the device does.
    if !opened.conflicted {
        settle(tx, open, epoch, returned == Return::Same).await?;
    }
    if is_news {
        join(tx, &[open.device.0]).await?;
    }
    tx.touch();
    Ok(opened)
}

/// Notes that the agent has the epoch on disk. What is refused has changed nothing.
pub(super) async fn confirm(tx: &Tx, device: DeviceId, epoch: u64) -> Result<()> {
    let confirmed = session::Entity::update_many()
        .col_expr(session::Column::ConfirmedAt, Expr::value(tx.now.0))
        .filter(session::Column::DeviceId.eq(device.0))
        .filter(session::Column::Epoch.eq(signed(epoch)))
        .exec(&tx.db)
        .await?;
    if confirmed.rows_affected == 0 {
        return Err(not_found("session", format_args!("{device}#{epoch}")));
    }
    let mut row = find_device(&tx.db, &device.to_string()).await?;
    if row.conflicted {
        let session = session::Entity::find_by_id(row.id).one(&tx.db).await?;
        if let Some(session) = session {
            copies::confirm(tx, row.id, session.journal_id, session.epoch).await?;
        }
    } else {
        row.confirmed_epoch = row.confirmed_epoch.max(signed(epoch));
    }
    row.last_seen = Some(tx.now.0);
    tx.device_event("device.online", row.id, &row.name);
    update(tx, row).await
}

/// Ends sessions.
pub(super) async fn close(tx: &Tx, which: Condition) -> Result<()> {
    let closing = session::Entity::find().filter(which).all(&tx.db).await?;
    let ids: Vec<Uuid> = closing.iter().map(|session| session.device_id).collect();
    for chunk in ids.chunks(ID_CHUNK) {
        let names = device::Entity::find()
            .filter(device::Column::Id.is_in(chunk.to_vec()))
            .all(&tx.db)
            .await?;
        session::Entity::delete_many()
            .filter(session::Column::DeviceId.is_in(chunk.to_vec()))
            .exec(&tx.db)
            .await?;
        for device in names {
            tx.device_event("device.offline", device.id, &device.name);
        }
    }
    Ok(())
}

/// The device, if the key that opened the session still speaks for it.
async fn speaking_device(tx: &Tx, open: &OpenSession) -> Result<device::Model> {
    let key = device_key::Entity::find_by_id(open.key.to_string())
        .one(&tx.db)
        .await?;
    let speaks = key.is_some_and(|key| key.device_id == open.device.0 && key.revoked_at.is_none());
    if !speaks {
        return Err(not_found("device key", open.key));
    }
    find_device(&tx.db, &open.device.to_string()).await
}

async fn write_session(tx: &Tx, open: &OpenSession, epoch: u64) -> Result<()> {
    let session = session::Model {
        device_id: open.device.0,
        epoch: signed(epoch),
        replica: open.replica,
        token_hash: open.token_hash.to_string(),
        journal_id: open.journal.0,
        opened_at: tx.now.0,
        confirmed_at: None,
    };
    let newer = OnConflict::column(session::Column::DeviceId)
        .update_columns([
            session::Column::Epoch,
            session::Column::Replica,
            session::Column::TokenHash,
            session::Column::JournalId,
            session::Column::OpenedAt,
            session::Column::ConfirmedAt,
        ])
        .to_owned();
    insert_all::<session::Entity>(&tx.db, vec![session], Some(newer)).await?;
    Ok(())
}

/// Compares what the server believes the device holds with what it says it holds.
///
/// A journal that is still the same has not lost what it accepted: when it does not list such an attempt, that has ended and was
/// acknowledged, and these rows are of an older backup. It counts as never pushed; the device, asked again, answers from its
/// journal and runs nothing.
async fn settle(tx: &Tx, open: &OpenSession, epoch: u64, same_journal: bool) -> Result<()> {
    let held: BTreeMap<AttemptId, State> = open
        .held
        .iter()
        .map(|held| (held.attempt, held.state))
        .collect();
    let named: Vec<Uuid> = held.keys().map(|attempt| attempt.target.0).collect();
    let mut batch = Batch::new(tx);
    let theirs = Condition::all().add(attempt::Column::DeviceId.eq(open.device.0));
    batch
        .load(
            theirs.clone().add(attempt::Column::Unresolved.eq(true)),
            None,
        )
        .await?;
    for chunk in named.chunks(ID_CHUNK) {
        batch
            .load(
                theirs
                    .clone()
                    .add(attempt::Column::TargetId.is_in(chunk.to_vec())),
                None,
            )
            .await?;
    }
    for (key, entry) in batch.iter_mut() {
        let id = AttemptId {
            target: TargetId(key.0),
            number: u32::try_from(key.1).unwrap_or(0),
        };
        if held.contains_key(&id) && entry.row.sent_epoch == 0 {
            // It got there, whatever became of the note about that.
            entry.row.sent_epoch = signed(epoch);
            entry.mark_dirty();
        }
        let event = match held.get(&id) {
            Some(state) if state.is_open() => Event::Held,
            Some(_) => Event::HeldEnded,
            None if same_journal && entry.facts().is_at_work() => {
                entry.row.sent_epoch = 0;
                entry.mark_dirty();
                continue;
            }
            None => Event::NotHeld,
        };
        let _ = entry.apply(event, tx.now);
    }
    batch.save().await?;
    Ok(())
}
