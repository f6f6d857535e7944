//! How a record may change; pure. Tests run these rules and the server's against each other, with a
//! crash between any two steps, in 100,000 histories. [`Journal`](super::Journal) reads a record,
//! calls one of these functions and writes its result, all in one transaction.

use kernex_proto::v1::{self, command::Action};

use super::{BootInstant, Record, Started};

/// What a stop does to a record.
#[derive(Debug, Clone, PartialEq)]
pub enum StopDecision {
    /// It had ended before; its outcome stands.
    Over,
    /// It is under way; write this and end it.
    UnderWay(Record),
    /// It had not begun, and never will once this is written with an outcome.
    Unbegun(Record),
}

/// The report that an acknowledgement is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckedReport {
    Accepted,
    /// The deferred report: the request for another run.
    Deferred,
    Outcome,
}

impl Record {
    /// The record of a command that was just accepted.
    #[must_use]
    pub fn accepted(command: &v1::Command, at: BootInstant, seq: u64) -> Self {
        Self {
            command: Some(command.clone()),
            accepted_seq: seq,
            accepted_at: Some(at),
            ..Self::default()
        }
    }

    /// The record of a command that was refused: never accepted, and over.
    #[must_use]
    pub fn refused(command: &v1::Command, outcome: v1::Outcome, seq: u64) -> Self {
        Self {
            command: Some(command.clone()),
            outcome: Some(outcome),
            outcome_seq: seq,
            traceparent: command.traceparent.clone(),
            ..Self::default()
        }
    }

    /// The record of a deferred attempt after `command` granted its next run; `None` when the
    /// command grants nothing new.
    #[must_use]
    pub fn regranted(mut self, command: &v1::Command) -> Option<Self> {
        let waiting = self.deferred.as_ref().filter(|_| self.outcome.is_none())?;
        if command.run <= waiting.run {
            return None;
        }
        self.deferred = None;
        self.command = Some(command.clone());
        Some(self)
    }

    /// What a stop does to an attempt, also to one never seen.
    #[must_use]
    pub fn stopped(known: Option<Self>, command: &v1::Command) -> StopDecision {
        let mut record = known.unwrap_or_else(|| Self {
            command: Some(command.clone()),
            traceparent: command.traceparent.clone(),
            ..Self::default()
        });
        if record.outcome.is_some() {
            return StopDecision::Over;
        }
        let stop = match &command.action {
            Some(Action::Stop(stop)) => *stop,
            _ => v1::Stop::default(),
        };
        record.stop_requested = true;
        record.overdue |= stop.overdue;
        // It ends going back only where the device goes back already. A device that goes back
        // because of this stop is not interrupted.
        record.stop_going_back |= stop.going_back && record.failing.is_some();
        // An attempt that has to go back has changed the device, whether or not a step of it runs
        // now.
        if record.started.is_some() || record.failing.is_some() {
            StopDecision::UnderWay(record)
        } else {
            StopDecision::Unbegun(record)
        }
    }

    /// Notes that a step is about to begin. `false` when it must not, because the attempt has ended
    /// or is being stopped.
    pub fn start(&mut self, started: Started) -> bool {
        // A stop leads to going back, so it takes another stop to end that.
        let unwanted = match started.step() {
            v1::Step::Rollback => self.stop_going_back,
            _ => self.stop_requested,
        };
        let open = self.outcome.is_none() && !unwanted;
        if open {
            self.started = Some(started);
            self.returning = None;
        }
        open
    }

    /// Notes that the attempt waits for another run. `false` when it has ended meanwhile or is
    /// being stopped.
    pub fn defer(&mut self, deferred: v1::Deferred, traceparent: String, seq: u64) -> bool {
        if self.outcome.is_some() || self.stop_requested {
            return false;
        }
        // The hook has ended, so nothing runs: a stop can end the attempt at once.
        self.started = None;
        self.deferred = Some(deferred);
        self.deferred_seq = seq;
        self.deferred_acked = false;
        self.traceparent = traceparent;
        true
    }

    /// Notes what failed, before the device goes back. The first failure stays.
    pub fn fail(&mut self, outcome: v1::Outcome) {
        self.failing.get_or_insert(outcome);
    }

    /// Notes the outcome. `false` when there is one already, which stays.
    pub fn finish(&mut self, outcome: v1::Outcome, traceparent: String, seq: u64) -> bool {
        if self.outcome.is_some() {
            return false;
        }
        self.outcome = Some(outcome);
        self.outcome_seq = seq;
        self.traceparent = traceparent;
        true
    }

    /// Which report of this record has this number, if one has.
    #[must_use]
    pub fn report(&self, seq: u64) -> Option<AckedReport> {
        if seq == 0 {
            return None;
        }
        if self.accepted_seq == seq {
            return Some(AckedReport::Accepted);
        }
        match &self.outcome {
            Some(_) => (self.outcome_seq == seq).then_some(AckedReport::Outcome),
            None => (self.deferred.is_some() && self.deferred_seq == seq)
                .then_some(AckedReport::Deferred),
        }
    }

    /// Notes that a report was acknowledged. The caller turns the record of an acknowledged outcome
    /// into a tombstone.
    pub fn acknowledge(&mut self, what: AckedReport) {
        match what {
            AckedReport::Accepted => self.accepted_acked = true,
            AckedReport::Deferred => self.deferred_acked = true,
            AckedReport::Outcome => {}
        }
    }
}
