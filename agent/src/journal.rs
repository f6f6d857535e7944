//! The agent's durable memory. Each fact is on disk before the agent acts on it: accepted before it
//! says so, started before exec, outcome before it reports. After the acknowledgement a tombstone
//! stays, so that nothing is ever run twice.
//!
//! Every function here is synchronous, and durable when it returns. Async callers use
//! [`Journal::call`].

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::{Mutex, MutexGuard};

use kernex_proto::{
    ids::{AttemptId, JournalId},
    v1,
};
use prost::Message as _;
use redb::{ReadableTable as _, ReadableTableMetadata as _};
use uuid::Uuid;

use crate::{crash::Act, disk::Fault};

mod marks;
mod outcomes;
mod reading;
mod record;
pub mod rules;
mod show;
mod snapshot;
mod store;
mod summary;
mod tables;
mod words;

pub use record::{
    BootInstant, Deadline, Record, Release, Restarting, Returning, Stage, Started, Switch,
};
use rules::{AckedReport, StopDecision};
pub(crate) use show::attempts;
use snapshot::Snapshot;
pub(crate) use store::JournalError;
use store::{IDENTITY, JournalStore, LIVE, NUMBERS, RELEASES, TOMBSTONE_ORDER, TOMBSTONES};
pub(crate) use summary::summary;
use tables::{active_of, all_live, bury, find, live_record, next_seq, put_live, put_release};

/// Attempts that may be open at once. The server sends one for each bundle name, so this is far
/// more than is needed.
const MAX_LIVE: u64 = 1024;

/// The journal. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Journal {
    store: Arc<JournalStore>,
    id: JournalId,
    snapshot: Arc<Mutex<Snapshot>>,
}

/// Whether a command was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Acceptance {
    /// It is in the journal now.
    New,
    /// It was there already.
    Known,
    /// There is no room; nothing was written.
    Full,
}

/// What follows from a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopResult {
    /// It had not begun (or was never seen) and never will: the outcome is written.
    Cancelled,
    /// It is under way; the executor has to end it.
    UnderWay,
    /// It had ended before; its outcome stands.
    Over,
}

/// What an acknowledgement changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AckResult {
    /// An accepted report arrived.
    Accepted(AttemptId),
    /// An outcome arrived; the attempt is a tombstone now.
    Outcome(AttemptId),
    /// A deferred report arrived.
    Deferred(AttemptId),
    /// Nothing waited for it.
    Nothing,
}

/// What `current` names after an outcome; written together with it.
#[derive(Debug, Clone)]
pub(crate) struct ReleaseChange {
    pub(crate) name: String,
    /// The release, or `None` when there is none any more.
    pub(crate) release: Option<Release>,
}

impl Journal {
    /// Opens the journal of a state folder. Returns the new path of a damaged one, which is set
    /// aside. On a disk that cannot be written an existing journal is opened for reading: it
    /// returns what it last held, and everything else fails until the disk works.
    pub(crate) fn open(path: &Path) -> Result<(Self, Option<PathBuf>), JournalError> {
        let (store, aside) = match JournalStore::open(path, prepare) {
            Ok(opened) => opened,
            Err(error) => {
                let snapshot = error.fault().and_then(|_| Snapshot::read(path));
                let Some((id, snapshot)) = snapshot else {
                    return Err(error);
                };
                let journal = Self {
                    store: Arc::new(JournalStore::closed(path, error.fault())),
                    id,
                    snapshot: Arc::new(Mutex::new(snapshot)),
                };
                return Ok((journal, None));
            }
        };
        let id = store.read(|tx| {
            let table = tx.open_table(IDENTITY)?;
            let id = table.get("id")?;
            Ok(id.and_then(|bytes| Uuid::from_slice(bytes.value()).ok()))
        })?;
        let id = JournalId(id.ok_or_else(|| std::io::Error::other("the journal has no id"))?);
        let journal = Self {
            store: Arc::new(store),
            id,
            snapshot: Arc::default(),
        };
        let snapshot = Snapshot {
            epoch: journal.epoch()?,
            live: journal.live()?,
        };
        *journal.snapshot() = snapshot;
        Ok((journal, aside))
    }

    /// What is wrong with the disk, by a look at it and by the last write.
    pub(crate) fn fault(&self) -> Option<Fault> {
        self.store.disk().fault()
    }

    /// What is wrong with the disk; tries a write when a look at it shows nothing.
    pub(crate) fn probe_fault(&self) -> Option<Fault> {
        if let Some(fault) = self.store.disk().check() {
            return Some(fault);
        }
        match self.confirm_epoch(0) {
            Ok(()) => self.fault(),
            Err(error) => Some(error.fault().unwrap_or(Fault::Io)),
        }
    }

    fn write<T>(
        &self,
        act: Act,
        body: impl FnOnce(&redb::WriteTransaction) -> Result<T, JournalError>,
    ) -> Result<T, JournalError> {
        let (value, snapshot) = self.store.write(act, |tx| {
            let value = body(tx)?;
            Ok((value, Snapshot::of(tx)?))
        })?;
        *self.snapshot() = snapshot;
        Ok(value)
    }

    fn snapshot(&self) -> MutexGuard<'_, Snapshot> {
        self.snapshot.lock()
    }

    /// Runs a journal operation on a blocking thread: each write waits for the disk.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        body: impl FnOnce(&Self) -> Result<T, JournalError> + Send + 'static,
    ) -> Result<T, JournalError> {
        let journal = self.clone();
        tokio::task::spawn_blocking(move || body(&journal))
            .await
            .map_err(|_| JournalError::Lost)?
    }

    /// Id of this journal; a new one after damage.
    pub(crate) fn id(&self) -> JournalId {
        self.id
    }

    /// Newest epoch on disk.
    pub(crate) fn epoch(&self) -> Result<u64, JournalError> {
        let read = self.store.read(|tx| {
            let table = tx.open_table(NUMBERS)?;
            Ok(table.get("epoch")?.map_or(0, |n| n.value()))
        });
        match read {
            Err(error) if error.fault().is_some() => Ok(self.snapshot().epoch),
            read => read,
        }
    }

    /// Writes an epoch down. It never gets smaller.
    pub(crate) fn confirm_epoch(&self, epoch: u64) -> Result<(), JournalError> {
        self.write(Act::JournalEpoch, |tx| {
            let mut table = tx.open_table(NUMBERS)?;
            let old = table.get("epoch")?.map_or(0, |n| n.value());
            table.insert("epoch", old.max(epoch))?;
            Ok(())
        })
    }

    /// Writes a command down, unless the attempt is known.
    pub(crate) fn accept(
        &self,
        id: AttemptId,
        command: &v1::Command,
        at: BootInstant,
    ) -> Result<Acceptance, JournalError> {
        self.write(Act::JournalAccept, |tx| {
            if let Some(record) = find(tx, id)? {
                return match record.regranted(command) {
                    Some(record) => put_live(tx, id, &record).map(|()| Acceptance::New),
                    None => Ok(Acceptance::Known),
                };
            }
            if tx.open_table(LIVE)?.len()? >= MAX_LIVE {
                return Ok(Acceptance::Full);
            }
            put_live(tx, id, &Record::accepted(command, at, next_seq(tx)?))?;
            Ok(Acceptance::New)
        })
    }

    /// Writes an outcome for a command that is not even accepted, unless the attempt is known.
    pub(crate) fn refuse(
        &self,
        id: AttemptId,
        command: &v1::Command,
        outcome: v1::Outcome,
    ) -> Result<(), JournalError> {
        self.write(Act::JournalRefuse, |tx| {
            if find(tx, id)?.is_none() {
                put_live(tx, id, &Record::refused(command, outcome, next_seq(tx)?))?;
            }
            Ok(())
        })
    }

    /// Writes a stop down, also for an attempt never seen: if its command comes later, the attempt
    /// is over already.
    pub(crate) fn stop(
        &self,
        id: AttemptId,
        command: &v1::Command,
    ) -> Result<StopResult, JournalError> {
        self.write(Act::JournalStop, |tx| {
            let (record, stopped) = match Record::stopped(find(tx, id)?, command) {
                StopDecision::Over => return Ok(StopResult::Over),
                StopDecision::UnderWay(record) => (record, StopResult::UnderWay),
                StopDecision::Unbegun(mut record) => {
                    let outcome = v1::Outcome {
                        state: v1::AttemptState::Cancelled.into(),
                        message: "stopped before it began".to_owned(),
                        active: active_of(tx, record.deploy())?,
                        ..v1::Outcome::default()
                    };
                    let traceparent = record.traceparent.clone();
                    record.finish(outcome, traceparent, next_seq(tx)?);
                    (record, StopResult::Cancelled)
                }
            };
            put_live(tx, id, &record)?;
            Ok(stopped)
        })
    }

    /// Writes an outcome and what is current now, in one step. An outcome that exists already
    /// stays.
    pub(crate) fn finish(
        &self,
        id: AttemptId,
        mut outcome: v1::Outcome,
        change: Option<ReleaseChange>,
        traceparent: String,
    ) -> Result<(), JournalError> {
        self.write(Act::JournalOutcome, |tx| {
            if let Some(change) = change {
                put_release(tx, &change)?;
            }
            let Some(mut record) = find(tx, id)? else {
                return Ok(());
            };
            if record.outcome.is_some() {
                return Ok(());
            }
            outcome.active = active_of(tx, record.deploy())?;
            record.finish(outcome, traceparent, next_seq(tx)?);
            put_live(tx, id, &record)
        })
    }

    /// Notes an acknowledgement. After that of an outcome the attempt is a tombstone.
    pub(crate) fn acknowledge(
        &self,
        seq: u64,
        unix_seconds: i64,
    ) -> Result<AckResult, JournalError> {
        self.write(Act::JournalAck, |tx| {
            let live = all_live(&tx.open_table(LIVE)?)?;
            let hit = live
                .into_iter()
                .find_map(|(id, record)| Some((id, record.report(seq)?, record)));
            let Some((id, what, mut record)) = hit else {
                return Ok(AckResult::Nothing);
            };
            record.acknowledge(what);
            match what {
                AckedReport::Accepted => {
                    put_live(tx, id, &record)?;
                    Ok(AckResult::Accepted(id))
                }
                AckedReport::Deferred => {
                    put_live(tx, id, &record)?;
                    Ok(AckResult::Deferred(id))
                }
                AckedReport::Outcome => {
                    bury(tx, id, record, unix_seconds)?;
                    Ok(AckResult::Outcome(id))
                }
            }
        })
    }

    /// Keeps the server's configuration.
    pub(crate) fn configure(&self, configuration: &v1::Configure) -> Result<(), JournalError> {
        self.write(Act::JournalConfigure, |tx| {
            let mut table = tx.open_table(IDENTITY)?;
            table.insert("configuration", configuration.encode_to_vec().as_slice())?;
            Ok(())
        })
    }

    /// The server's configuration, if it ever gave one.
    pub(crate) fn configuration(&self) -> Result<Option<v1::Configure>, JournalError> {
        self.store.read(|tx| {
            let table = tx.open_table(IDENTITY)?;
            let bytes = table.get("configuration")?;
            Ok(bytes
                .map(|bytes| v1::Configure::decode(bytes.value()))
                .transpose()?)
        })
    }

    /// Corrects what `current` names, from what is on the disk.
    pub(crate) fn set_release(&self, change: ReleaseChange) -> Result<(), JournalError> {
        self.write(Act::JournalRelease, |tx| put_release(tx, &change))
    }

    fn change<T: Default>(
        &self,
        act: Act,
        id: AttemptId,
        body: impl FnOnce(&mut Record) -> T,
    ) -> Result<T, JournalError> {
        self.write(act, |tx| {
            let Some(mut record) = live_record(tx, id)? else {
                return Ok(T::default());
            };
            let value = body(&mut record);
            put_live(tx, id, &record)?;
            Ok(value)
        })
    }
}

/// Makes the tables and the id, and reads every live record once, so that damage shows at the
/// start.
fn prepare(store: &JournalStore) -> Result<(), JournalError> {
    store.write(Act::JournalOpen, |tx| {
        let mut identity = tx.open_table(IDENTITY)?;
        if identity.get("id")?.is_none() {
            let id = JournalId::generate();
            identity.insert("id", id.0.as_bytes().as_slice())?;
        }
        tx.open_table(TOMBSTONES)?;
        tx.open_table(TOMBSTONE_ORDER)?;
        tx.open_table(NUMBERS)?;
        tx.open_table(RELEASES)?;
        all_live(&tx.open_table(LIVE)?)?;
        Ok(())
    })
}

#[cfg(test)]
mod tests;
