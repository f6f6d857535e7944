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

mod record;
mod show;
mod store;
mod tables;

pub(crate) use record::{BootInstant, Record, Release, Started, Switch};
pub(crate) use show::attempts;
pub(crate) use store::JournalError;
use store::{IDENTITY, LIVE, NUMBERS, RELEASES, Store, TOMBSTONE_ORDER, TOMBSTONES};
use tables::{active_of, all_live, bury, find, key, live_record, next_seq, put_live, put_release};

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
            if find(tx, id)?.is_some() {
                return Ok(Taken::Known);
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
            let open = record.outcome.is_none() && !record.stop_requested;
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
                r.accepted_seq == seq || (r.outcome.is_some() && r.outcome_seq == seq)
            });
            let Some((id, mut record)) = hit else {
                return Ok(Acked::Nothing);
            };
            if record.accepted_seq == seq {
                record.accepted_acked = true;
                put_live(tx, id, &record)?;
                return Ok(Acked::Accepted(id));
            }
            bury(tx, id, record, unix_seconds)?;
            Ok(Acked::Outcome(id))
        })
    }

    /// Every attempt that is open or whose outcome is unacknowledged.
    pub(crate) fn live(&self) -> Result<Vec<(AttemptId, Record)>, JournalError> {
        self.store.read(|tx| all_live(&tx.open_table(LIVE)?))
    }

    /// One attempt, live or buried.
    pub(crate) fn get(&self, id: AttemptId) -> Result<Option<Record>, JournalError> {
        self.store.read(|tx| {
            let key = key(id);
            let live = tx.open_table(LIVE)?;
            if let Some(bytes) = live.get(key.as_slice())? {
                return Ok(Some(Record::decode(bytes.value())?));
            }
            let buried = tx.open_table(TOMBSTONES)?;
            let bytes = buried.get(key.as_slice())?;
            Ok(bytes
                .map(|bytes| Record::decode(bytes.value()))
                .transpose()?)
        })
    }

    /// Reports that are not acknowledged, in the order they were made.
    pub(crate) fn unacknowledged(&self) -> Result<Vec<v1::Report>, JournalError> {
        let mut reports = Vec::new();
        for (id, record) in self.live()? {
            if !record.accepted_acked {
                reports.extend(record.accepted_report(id));
            }
            reports.extend(record.outcome_report(id));
        }
        reports.sort_by_key(|report| report.seq);
        Ok(reports)
    }

    /// The oldest attempt that is accepted and has neither begun nor ended.
    pub(crate) fn next_ready(&self) -> Result<Option<(AttemptId, Record)>, JournalError> {
        Ok(self
            .live()?
            .into_iter()
            .filter(|(_, record)| record.state() == v1::AttemptState::Accepted)
            .min_by_key(|(_, record)| record.accepted_seq))
    }

    /// What `current` names, by bundle name.
    pub(crate) fn releases(&self) -> Result<Vec<(String, Release)>, JournalError> {
        self.store.read(|tx| {
            let table = tx.open_table(RELEASES)?;
            let mut releases = Vec::new();
            for entry in table.iter()? {
                let (name, bytes) = entry?;
                releases.push((name.value().to_owned(), Release::decode(bytes.value())?));
            }
            Ok(releases)
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
