//! Marks of an attempt: each says what is about to happen, and is on disk before it happens.

use kernex_proto::{ids::AttemptId, v1};

use super::{
    Journal, JournalError, Restarting, Returning, Started, Switch,
    tables::{live_record, next_seq, put_live},
};
use crate::crash::Act;

impl Journal {
    /// Writes down that a step is about to begin. `false` when the attempt has ended meanwhile:
    /// then it must not.
    pub(crate) fn start(&self, id: AttemptId, started: Started) -> Result<bool, JournalError> {
        self.change(Act::JournalBegin, id, |record| record.start(started))
    }

    /// Writes down the process of the step that began.
    pub(crate) fn note_process(&self, id: AttemptId, started: Started) -> Result<(), JournalError> {
        self.change(Act::JournalProcess, id, |record| {
            if record.outcome.is_none() {
                record.started = Some(started);
            }
        })
    }

    /// Writes down that `current` is about to be switched.
    pub(crate) fn note_switch(&self, id: AttemptId, switch: Switch) -> Result<(), JournalError> {
        self.change(Act::JournalSwitch, id, |record| {
            record.switch = Some(switch)
        })
    }

    /// Writes down that the attempt waits for another run. `false` when it has ended meanwhile.
    pub(crate) fn defer(
        &self,
        id: AttemptId,
        deferred: v1::Deferred,
        traceparent: String,
    ) -> Result<bool, JournalError> {
        self.write(Act::JournalDefer, |tx| {
            let Some(mut record) = live_record(tx, id)? else {
                return Ok(false);
            };
            if !record.defer(deferred, traceparent, next_seq(tx)?) {
                return Ok(false);
            }
            put_live(tx, id, &record)?;
            Ok(true)
        })
    }

    /// Writes down that a restart may come at any moment and that the attempt continues after it.
    pub(crate) fn note_restart(
        &self,
        id: AttemptId,
        restarting: Restarting,
    ) -> Result<(), JournalError> {
        self.change(Act::JournalRestart, id, |record| {
            record.restarting = Some(restarting)
        })
    }

    /// Writes down that a restart may come at any moment and that going back continues after it.
    pub(crate) fn note_rollback_restart(
        &self,
        id: AttemptId,
        returning: Returning,
    ) -> Result<(), JournalError> {
        self.change(Act::JournalReturn, id, |record| {
            record.returning = Some(returning)
        })
    }

    /// Writes down what failed, before the device goes back. The first failure stays.
    pub(crate) fn note_failure(
        &self,
        id: AttemptId,
        outcome: v1::Outcome,
    ) -> Result<(), JournalError> {
        self.change(Act::JournalFailing, id, |record| record.fail(outcome))
    }
}
