//! What the journal keeps about an attempt and a release.
//!
//! Records are protobuf, because later and earlier versions read them: an unknown field is skipped.

use kernex_proto::{ids::AttemptId, v1};

/// Everything known about one attempt.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Record {
    /// The command; for a stop of an attempt never seen, that stop.
    #[prost(message, optional, tag = "1")]
    pub command: Option<v1::Command>,
    /// Seq of the accepted report; 0 when there is none.
    #[prost(uint64, tag = "2")]
    pub accepted_seq: u64,
    #[prost(bool, tag = "3")]
    pub accepted_acked: bool,
    /// The step that may have begun.
    #[prost(message, optional, tag = "4")]
    pub started: Option<Started>,
    /// The switch of `current` that may have happened.
    #[prost(message, optional, tag = "5")]
    pub switch: Option<Switch>,
    /// An operator wants it stopped.
    #[prost(bool, tag = "6")]
    pub stop_requested: bool,
    #[prost(message, optional, tag = "7")]
    pub outcome: Option<v1::Outcome>,
    /// Seq of the outcome report; 0 when there is none.
    #[prost(uint64, tag = "8")]
    pub outcome_seq: u64,
    /// Trace context that travels with the outcome.
    #[prost(string, tag = "9")]
    pub traceparent: String,
    #[prost(message, optional, tag = "10")]
    pub accepted_at: Option<BootInstant>,
    /// Wall clock at the acknowledgement, for the age of a tombstone only.
    #[prost(int64, tag = "11")]
    pub acked_unix_seconds: i64,
    /// `hooks.pre` asked for time, and the next run is not granted yet.
    #[prost(message, optional, tag = "12")]
    pub deferred: Option<v1::Deferred>,
    /// Seq of the deferred report; 0 when there is none.
    #[prost(uint64, tag = "13")]
    pub deferred_seq: u64,
    /// The deferred report is acknowledged. Each session sends it again all the same.
    #[prost(bool, tag = "14")]
    pub deferred_acked: bool,
    /// The script asked for a restart, which may come at any moment.
    #[prost(message, optional, tag = "15")]
    pub restarting: Option<Restarting>,
    /// What failed; the device goes back to the previous release. Becomes the outcome, together
    /// with how that ended.
    #[prost(message, optional, tag = "16")]
    pub failing: Option<v1::Outcome>,
    /// The stop ends going back as well.
    #[prost(bool, tag = "17")]
    pub stop_going_back: bool,
    /// The stop came because the execution time was over on the server's clock.
    #[prost(bool, tag = "18")]
    pub overdue: bool,
    /// A rollback script asked for a restart, which may come at any moment.
    #[prost(message, optional, tag = "19")]
    pub returning: Option<Returning>,
}

/// How an attempt continues after the restart it waits for.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Restarting {
    #[prost(int32, optional, tag = "1")]
    pub exit_code: Option<i32>,
    /// Output so far.
    #[prost(string, tag = "2")]
    pub output: String,
    /// Until when the attempt has to have ended; absent in journals of older agents.
    #[prost(message, optional, tag = "3")]
    pub deadline: Option<Deadline>,
    /// The script that runs after the switch asked: only health is left.
    #[prost(bool, tag = "4")]
    pub after_switch: bool,
    /// Whose the parts of the output are; none in journals of older agents.
    #[prost(message, repeated, tag = "5")]
    pub output_marks: Vec<v1::OutputMark>,
}

/// How going back continues after the restart that one of its scripts asked for.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Returning {
    /// Name of that script in the manifest; the scripts after it are still to run.
    #[prost(string, tag = "1")]
    pub script: String,
    /// Output so far.
    #[prost(string, tag = "2")]
    pub output: String,
    /// Until when the device has to have gone back.
    #[prost(message, optional, tag = "3")]
    pub deadline: Option<Deadline>,
    /// Whose the parts of the output are; none in journals of older agents.
    #[prost(message, repeated, tag = "4")]
    pub output_marks: Vec<v1::OutputMark>,
}

/// A deadline that survives a reboot. While the machine is off no clock counts, so then the time
/// that was left counts from the boot.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Deadline {
    /// On the boot clock.
    #[prost(message, optional, tag = "1")]
    pub at: Option<BootInstant>,
    /// Milliseconds that were left when this was written.
    #[prost(uint64, tag = "2")]
    pub left: u64,
}

/// Where an attempt without an outcome continues.
#[derive(Debug, Clone, PartialEq)]
pub enum Stage {
    /// From the beginning: nothing of it has begun.
    Fresh,
    /// Not before the server grants another run.
    Deferred,
    /// After the restart its script asked for.
    Restarted(Restarting),
    /// By going back; nothing of that has begun.
    GoingBack(v1::Outcome),
    /// In the middle of going back, after the restart its script asked for.
    Returning(Returning, v1::Outcome),
    /// Nowhere: a step that must not be repeated has begun.
    CutOff,
}

/// An instant on the boot clock.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct BootInstant {
    #[prost(string, tag = "1")]
    pub boot_id: String,
    /// Milliseconds since that boot.
    #[prost(uint64, tag = "2")]
    pub millis: u64,
}

/// A step that was about to begin, and its process once known.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Started {
    #[prost(enumeration = "v1::Step", tag = "1")]
    pub step: i32,
    /// Process id of the script; 0 when not known.
    #[prost(int32, tag = "2")]
    pub pid: i32,
    /// Start time of that process in clock ticks since boot, which tells it from a later one with
    /// the same id.
    #[prost(uint64, tag = "3")]
    pub start_ticks: u64,
    /// The boot all this belongs to.
    #[prost(string, tag = "4")]
    pub boot_id: String,
    /// The script, by its name in the manifest; empty as long as its process is not known.
    #[prost(string, tag = "5")]
    pub script: String,
}

/// A switch of `current`, written down before it is done.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Switch {
    /// Folder name of the new release.
    #[prost(string, tag = "1")]
    pub to: String,
    /// Folder name of the one before; empty when there was none.
    #[prost(string, tag = "2")]
    pub from: String,
}

/// What `current` names under one bundle name.
#[derive(Clone, PartialEq, Eq, prost::Message, serde::Serialize, serde::Deserialize)]
pub struct Release {
    #[prost(string, tag = "1")]
    pub version: String,
    #[prost(string, tag = "2")]
    pub digest: String,
    /// Digest that was active before.
    #[prost(string, tag = "3")]
    pub previous_digest: String,
    /// Folder name under `releases/`.
    #[prost(string, tag = "4")]
    pub folder: String,
    /// Folder name of the one before.
    #[prost(string, tag = "5")]
    pub previous_folder: String,
}

impl Deadline {
    /// The deadline `at`, seen at `now`; both are milliseconds since that boot.
    pub fn new(boot_id: String, at: u64, now: u64) -> Self {
        Self {
            at: Some(BootInstant {
                boot_id,
                millis: at,
            }),
            left: at.saturating_sub(now),
        }
    }

    /// The deadline on the clock of this boot, in milliseconds. After a reboot the time that was
    /// left counts from the boot: nothing here can tell how long the machine was off.
    pub fn on(&self, boot_id: &str) -> u64 {
        match &self.at {
            Some(at) if at.boot_id == boot_id => at.millis,
            _ => self.left,
        }
    }
}

impl Release {
    /// As a message of the protocol.
    pub fn to_active(&self, name: &str) -> v1::ActiveRelease {
        v1::ActiveRelease {
            name: name.to_owned(),
            version: self.version.clone(),
            digest: self.digest.clone(),
            previous_digest: self.previous_digest.clone(),
            since: None,
        }
    }
}

impl Record {
    /// The state an attempt is in, as Hello says it.
    pub fn state(&self) -> v1::AttemptState {
        match (&self.outcome, &self.started) {
            (Some(outcome), _) => outcome.state(),
            (None, Some(_)) => v1::AttemptState::Running,
            (None, None) => v1::AttemptState::Accepted,
        }
    }

    /// Where the attempt continues after a start of the agent; `None` when it is over.
    pub fn stage(&self) -> Option<Stage> {
        use v1::Step;
        if self.outcome.is_some() {
            return None;
        }
        let step = self.started.as_ref().map(Started::step);
        if let (Some(Step::Rollback), Some(failing), Some(returning)) =
            (step, &self.failing, &self.returning)
        {
            return Some(Stage::Returning(returning.clone(), failing.clone()));
        }
        Some(
            match (step, &self.failing, &self.restarting, &self.deferred) {
                (Some(Step::Rollback), ..) => Stage::CutOff,
                (_, Some(failing), ..) => Stage::GoingBack(failing.clone()),
                (Some(Step::Script | Step::Activate), None, Some(restarting), _) => {
                    Stage::Restarted(restarting.clone())
                }
                (Some(Step::PostHook), None, Some(restarting), _) if restarting.after_switch => {
                    Stage::Restarted(restarting.clone())
                }
                (Some(_), ..) => Stage::CutOff,
                (None, None, _, Some(_)) => Stage::Deferred,
                (None, ..) => Stage::Fresh,
            },
        )
    }

    /// The deferred report, while it waits for another run.
    pub fn deferred_report(&self, id: AttemptId) -> Option<v1::Report> {
        if self.outcome.is_some() {
            return None;
        }
        Some(v1::Report {
            attempt: Some(id.into()),
            seq: self.deferred_seq,
            event: Some(v1::report::Event::Deferred(self.deferred.clone()?)),
            traceparent: self.traceparent.clone(),
            previous_outcome_seq: None,
        })
    }

    /// Which run this is, from 1.
    pub fn run(&self) -> u32 {
        self.command
            .as_ref()
            .map_or(1, |command| command.run.max(1))
    }

    /// What to deploy, if that is what was asked for.
    pub fn deploy(&self) -> Option<&v1::Deploy> {
        match self.command.as_ref()?.action.as_ref()? {
            v1::command::Action::Deploy(deploy) => Some(deploy),
            _ => None,
        }
    }

    /// The accepted report, if there ever was one.
    pub fn accepted_report(&self, id: AttemptId) -> Option<v1::Report> {
        (self.accepted_seq != 0).then(|| v1::Report {
            attempt: Some(id.into()),
            seq: self.accepted_seq,
            event: Some(v1::report::Event::Accepted(v1::Accepted {})),
            traceparent: self
                .command
                .as_ref()
                .map(|command| command.traceparent.clone())
                .unwrap_or_default(),
            previous_outcome_seq: None,
        })
    }

    /// The outcome report, once there is one.
    pub fn outcome_report(&self, id: AttemptId) -> Option<v1::Report> {
        let outcome = self.outcome.clone()?;
        Some(v1::Report {
            attempt: Some(id.into()),
            seq: self.outcome_seq,
            event: Some(v1::report::Event::Outcome(outcome)),
            traceparent: self.traceparent.clone(),
            previous_outcome_seq: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_counts_from_the_start_of_the_machine_after_a_reboot() {
        let deadline = Deadline::new("a".into(), 90_000, 60_000);
        assert_eq!(deadline.on("a"), 90_000);
        assert_eq!(deadline.on("b"), 30_000);
        // It had passed when it was written down.
        assert_eq!(Deadline::new("a".into(), 5, 9).on("b"), 0);
    }

    #[test]
    fn each_restart_has_a_stage_until_what_follows_it_has_begun() {
        use v1::Step;
        let started = |step: Step| Started {
            step: step.into(),
            ..Started::default()
        };
        let failing = v1::Outcome::default();
        let mut record = Record {
            failing: Some(failing.clone()),
            ..Record::default()
        };
        assert_eq!(record.stage(), Some(Stage::GoingBack(failing.clone())));
        assert!(record.start(started(Step::Rollback)));
        assert_eq!(record.stage(), Some(Stage::CutOff));
        let returning = Returning {
            script: "deploy.script".into(),
            ..Returning::default()
        };
        record.returning = Some(returning.clone());
        assert_eq!(record.stage(), Some(Stage::Returning(returning, failing)));
        assert!(record.start(started(Step::Rollback)));
        assert_eq!(record.stage(), Some(Stage::CutOff), "never run again");

        // A script after the switch asks only when the release was there before.
        for (after_switch, step, goes_on) in [
            (false, Step::Script, true),
            (false, Step::Activate, true),
            (false, Step::PostHook, false),
            (true, Step::PostHook, true),
            (true, Step::Health, false),
        ] {
            let restarting = Restarting {
                after_switch,
                ..Restarting::default()
            };
            let record = Record {
                started: Some(started(step)),
                restarting: Some(restarting.clone()),
                ..Record::default()
            };
            let wanted = if goes_on {
                Stage::Restarted(restarting)
            } else {
                Stage::CutOff
            };
            assert_eq!(record.stage(), Some(wanted), "{step:?}");
        }
    }
}
