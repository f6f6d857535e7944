//! The agent's durable memory: accepted before saying so, started before exec, outcome before reporting, and after
//! the acknowledgement a tombstone, so that nothing is ever run twice.
//!
//! Everything here is synchronous and durable when it returns; async callers go through [`Journal::call`].

use std::{path::Path, path::PathBuf, sync::Arc};

use kernex_proto::{
    ids::{AttemptId, JournalId},
    v1,
};
use prost::Message as _;
use redb::{ReadableTable as _, ReadableTableMetadata as _};
use uuid::Uuid;

mod reading;
mod record;
mod show;
mod store;
mod tables;

pub(crate) use record::{BootInstant, Record, Release, Restarting, Stage, Started, Switch};
pub(crate) use show::attempts;
pub(crate) use store::JournalError;
use store::{IDENTITY, LIVE, NUMBERS, RELEASES, Store, TOMBSTONE_ORDER, TOMBSTONES};
use tables::{active_of, all_live, bury, find, live_record, next_seq, put_live, put_release};

/// Attempts that may be open at once. The server sends one per bundle name, so this is far away.
const MAX_LIVE: u64 = 1024;

/// The journal. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Journal {
    store: Arc<Store>,
    id: JournalId,
}

/// What became of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It is in the journal now.
    New,
    /// It was there already.
    Known,
    /// There is no room; nothing was written.
    Full,
}

/// What is to be done about a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// It had not begun (or was never seen) and never will: the outcome is written.
    Cancelled,
    /// It is under way; the executor has to end it.
    UnderWay,
    /// It had ended before; its outcome stands.
    Over,
}

/// What an acknowledgement changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Acked {
    /// An accepted report arrived.
    Accepted(AttemptId),
    /// An outcome arrived; the attempt is a tombstone now.
    Outcome(AttemptId),
    /// A deferred report arrived.
    Deferred(AttemptId),
    /// Nothing waited for it.
    Nothing,
}

/// What `current` names after an outcome, to be written with it.
#[derive(Debug, Clone)]
pub(crate) struct ReleaseChange {
    /// Bundle name.
    pub(crate) name: String,
    /// The release, or `None` when there is none any more.
    pub(crate) release: Option<Release>,
}

impl Journal {
    /// Opens the journal of a state folder. Returns where a damaged one was set aside.
    pub(crate) fn open(path: &Path) -> Result<(Self, Option<PathBuf>), JournalError> {
        let (store, aside) = Store::open(path, prepare)?;
        let id = store.read(|tx| {
            let table = tx.open_table(IDENTITY)?;
            let id = table.get("id")?;
            Ok(id.and_then(|bytes| Uuid::from_slice(bytes.value()).ok()))
        })?;
        let id = JournalId(id.ok_or_else(|| std::io::Error::other("the journal has no id"))?);
        let store = Arc::new(store);
        Ok((Self { store, id }, aside))
    }

    /// Runs a journal operation off the event loop: each write waits for the disk.
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
        self.store.read(|tx| {
            let table = tx.open_table(NUMBERS)?;
            Ok(table.get("epoch")?.map_or(0, |n| n.value()))
        })
    }

    /// Writes an epoch down; never goes back.
    pub(crate) fn confirm_epoch(&self, epoch: u64) -> Result<(), JournalError> {
        self.store.write(|tx| {
            let mut table = tx.open_table(NUMBERS)?;
            let old = table.get("epoch")?.map_or(0, |n| n.value());
            table.insert("epoch", old.max(epoch))?;
            Ok(())
        })
    }

    /// Takes a command in, unless the attempt is known.
    pub(crate) fn accept(
        &self,
        id: AttemptId,
        command: &v1::Command,
        at: BootInstant,
    ) -> Result<Taken, JournalError> {
        self.store.write(|tx| {
            if let Some(record) = find(tx, id)? {
                return match regranted(record, command) {
                    Some(record) => put_live(tx, id, &record).map(|()| Taken::New),
                    None => Ok(Taken::Known),
                };
            }
            if tx.open_table(LIVE)?.len()? >= MAX_LIVE {
                return Ok(Taken::Full);
            }
            let record = Record {
                command: Some(command.clone()),
                accepted_seq: next_seq(tx)?,
                accepted_at: Some(at),
                ..Record::default()
            };
            put_live(tx, id, &record)?;
            Ok(Taken::New)
        })
    }

    /// Writes an outcome for a command that is not even accepted, unless the attempt is known.
    pub(crate) fn refuse(
        &self,
        id: AttemptId,
        command: &v1::Command,
        outcome: v1::Outcome,
    ) -> Result<(), JournalError> {
        self.store.write(|tx| {
            if find(tx, id)?.is_none() {
                let record = Record {
                    command: Some(command.clone()),
                    outcome: Some(outcome),
                    outcome_seq: next_seq(tx)?,
                    traceparent: command.traceparent.clone(),
                    ..Record::default()
                };
                put_live(tx, id, &record)?;
            }
            Ok(())
        })
    }

    /// Writes a stop down, also for an attempt never seen: should it come later, it is over already.
    pub(crate) fn stop(
        &self,
        id: AttemptId,
        command: &v1::Command,
    ) -> Result<Stopped, JournalError> {
        self.store.write(|tx| {
            let mut record = match find(tx, id)? {
                None => Record {
                    command: Some(command.clone()),
                    traceparent: command.traceparent.clone(),
                    ..Record::default()
                },
                Some(record) if record.outcome.is_some() => return Ok(Stopped::Over),
                Some(record) => record,
            };
            record.stop_requested = true;
            let stopped = if record.started.is_some() {
                Stopped::UnderWay
            } else {
                record.outcome_seq = next_seq(tx)?;
                record.outcome = Some(v1::Outcome {
                    state: v1::AttemptState::Cancelled.into(),
                    message: "stopped before it began".to_owned(),
                    active: active_of(tx, record.deploy())?,
                    ..v1::Outcome::default()
                });
                Stopped::Cancelled
            };
            put_live(tx, id, &record)?;
            Ok(stopped)
        })
    }

    /// Writes down that a step is about to begin. `false` when the attempt has ended meanwhile: then it must not.
    pub(crate) fn start(&self, id: AttemptId, started: Started) -> Result<bool, JournalError> {
        self.change(id, |record| {
            // Going back is what a stop leads to, so a stop does not stop it.
            let wanted = !record.stop_requested || started.step() == v1::Step::Rollback;
            let open = record.outcome.is_none() && wanted;
            if open {
                record.started = Some(started);
            }
            open
        })
    }

    /// Writes down the process of the step that began.
    pub(crate) fn started_as(&self, id: AttemptId, started: Started) -> Result<(), JournalError> {
        self.change(id, |record| {
            if record.outcome.is_none() {
                record.started = Some(started);
            }
        })
    }

    /// Writes down that `current` is about to be switched.
    pub(crate) fn switching(&self, id: AttemptId, switch: Switch) -> Result<(), JournalError> {
        self.change(id, |record| record.switch = Some(switch))
    }

    /// Writes down that the attempt waits for another run. `false` when it has ended meanwhile.
    pub(crate) fn defer(
        &self,
        id: AttemptId,
        deferred: v1::Deferred,
        traceparent: String,
    ) -> Result<bool, JournalError> {
        self.store.write(|tx| {
            let Some(mut record) = live_record(tx, id)? else {
                return Ok(false);
            };
            if record.outcome.is_some() || record.stop_requested {
                return Ok(false);
            }
            // The hook has ended, so nothing is under way; a stop ends the attempt at once.
            record.started = None;
            record.deferred = Some(deferred);
            record.deferred_seq = next_seq(tx)?;
            record.deferred_acked = false;
            record.traceparent = traceparent;
            put_live(tx, id, &record)?;
            Ok(true)
        })
    }

    /// Writes down that a restart may come at any moment and that the attempt goes on after it.
    pub(crate) fn restarting(
        &self,
        id: AttemptId,
        restarting: Restarting,
    ) -> Result<(), JournalError> {
        self.change(id, |record| record.restarting = Some(restarting))
    }

    /// Writes down what failed, before going back. What failed first stays.
    pub(crate) fn failing(&self, id: AttemptId, outcome: v1::Outcome) -> Result<(), JournalError> {
        self.change(id, |record| {
            record.failing.get_or_insert(outcome);
        })
    }

    /// Writes an outcome and what is active now, in one step. An outcome that is there already stands.
    pub(crate) fn finish(
        &self,
        id: AttemptId,
        mut outcome: v1::Outcome,
        change: Option<ReleaseChange>,
        traceparent: String,
    ) -> Result<(), JournalError> {
        self.store.write(|tx| {
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
            record.outcome = Some(outcome);
            record.outcome_seq = next_seq(tx)?;
            record.traceparent = traceparent;
            put_live(tx, id, &record)
        })
    }

    /// Takes an acknowledgement in; after that of an outcome the attempt is a tombstone.
    pub(crate) fn acknowledge(&self, seq: u64, unix_seconds: i64) -> Result<Acked, JournalError> {
        if seq == 0 {
            return Ok(Acked::Nothing);
        }
        self.store.write(|tx| {
            let hit = all_live(&tx.open_table(LIVE)?)?.into_iter().find(|(_, r)| {
                r.accepted_seq == seq
                    || (r.outcome.is_some() && r.outcome_seq == seq)
                    || (r.outcome.is_none() && r.deferred.is_some() && r.deferred_seq == seq)
            });
            let Some((id, mut record)) = hit else {
                return Ok(Acked::Nothing);
            };
            if record.accepted_seq == seq {
                record.accepted_acked = true;
                put_live(tx, id, &record)?;
                return Ok(Acked::Accepted(id));
            }
            if record.outcome.is_none() {
                record.deferred_acked = true;
                put_live(tx, id, &record)?;
                return Ok(Acked::Deferred(id));
            }
            bury(tx, id, record, unix_seconds)?;
            Ok(Acked::Outcome(id))
        })
    }

    /// Keeps the server's configuration.
    pub(crate) fn configure(&self, configuration: &v1::Configure) -> Result<(), JournalError> {
        self.store.write(|tx| {
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

    /// Corrects what `current` names, from what the disk says.
    pub(crate) fn set_release(&self, change: ReleaseChange) -> Result<(), JournalError> {
        self.store.write(|tx| put_release(tx, &change))
    }

    fn change<T: Default>(
        &self,
        id: AttemptId,
        body: impl FnOnce(&mut Record) -> T,
    ) -> Result<T, JournalError> {
        self.store.write(|tx| {
            let Some(mut record) = live_record(tx, id)? else {
                return Ok(T::default());
            };
            let value = body(&mut record);
            put_live(tx, id, &record)?;
            Ok(value)
        })
    }
}

/// The record of a deferred attempt once the command grants its next run.
fn regranted(mut record: Record, command: &v1::Command) -> Option<Record> {
    let deferred = record
        .deferred
        .as_ref()
        .filter(|_| record.outcome.is_none())?;
    if command.run <= deferred.run {
        return None;
    }
    record.deferred = None;
    record.command = Some(command.clone());
    Some(record)
}

/// Makes the tables and the id, and reads every live record once, so that damage shows at the start.
fn prepare(store: &Store) -> Result<(), JournalError> {
    store.write(|tx| {
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
