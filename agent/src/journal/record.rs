//! What the journal keeps about an attempt and a release.
//!
//! Records are protobuf, like all else that must be read by later versions: a field added tomorrow is skipped today.

use kernex_proto::{ids::AttemptId, v1};

/// Everything known about one attempt.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Record {
    /// What was asked for; for a stop of an attempt never seen, that stop.
    #[prost(message, optional, tag = "1")]
    pub command: Option<v1::Command>,
    /// Seq of the accepted report; 0 when there is none.
    #[prost(uint64, tag = "2")]
    pub accepted_seq: u64,
    /// The accepted report needs no sending any more.
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
    /// How it ended.
    #[prost(message, optional, tag = "7")]
    pub outcome: Option<v1::Outcome>,
    /// Seq of the outcome report.
    #[prost(uint64, tag = "8")]
    pub outcome_seq: u64,
    /// Trace context that travels with the outcome.
    #[prost(string, tag = "9")]
    pub traceparent: String,
    /// When it was accepted.
    #[prost(message, optional, tag = "10")]
    pub accepted_at: Option<BootInstant>,
    /// Wall clock at the acknowledgement, for the age of a tombstone only.
    #[prost(int64, tag = "11")]
    pub acked_unix_seconds: i64,
    /// `hooks.pre` asked to be asked again later, and was not yet.
    #[prost(message, optional, tag = "12")]
    pub deferred: Option<v1::Deferred>,
    /// Seq of the deferred report.
    #[prost(uint64, tag = "13")]
    pub deferred_seq: u64,
    /// The deferred report arrived; it is told again in each session all the same.
    #[prost(bool, tag = "14")]
    pub deferred_acked: bool,
    /// The script asked for a restart, which may come at any moment.
    #[prost(message, optional, tag = "15")]
    pub restarting: Option<Restarting>,
    /// What failed; the device is going back to the release before. Becomes the outcome with what came of that.
    #[prost(message, optional, tag = "16")]
    pub failing: Option<v1::Outcome>,
}

/// What an attempt that waits for a restart has to know after it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Restarting {
    /// Exit code of the script.
    #[prost(int32, optional, tag = "1")]
    pub exit_code: Option<i32>,
    /// Output so far.
    #[prost(string, tag = "2")]
    pub output: String,
}

/// Where an attempt without an outcome is to go on.
#[derive(Debug, Clone, PartialEq)]
pub enum Stage {
    /// From the beginning: nothing of it has begun.
    Fresh,
    /// Not before the server grants another run.
    Deferred,
    /// After the restart its script asked for.
    Restarted(Restarting),
    /// With going back; nothing of that has begun.
    GoingBack(v1::Outcome),
    /// Nowhere: a step that must not be repeated has begun.
    CutOff,
}

/// An instant on the boot clock.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct BootInstant {
    /// The boot it belongs to.
    #[prost(string, tag = "1")]
    pub boot_id: String,
    /// Milliseconds since that boot.
    #[prost(uint64, tag = "2")]
    pub millis: u64,
}

/// A step that was about to begin, and its process once known.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Started {
    /// Which step.
    #[prost(enumeration = "v1::Step", tag = "1")]
    pub step: i32,
    /// Process id of the script; 0 when not known.
    #[prost(int32, tag = "2")]
    pub pid: i32,
    /// Start time of that process in clock ticks since boot, which tells it from a later one with the same id.
    #[prost(uint64, tag = "3")]
    pub start_ticks: u64,
    /// The boot all this belongs to.
    #[prost(string, tag = "4")]
    pub boot_id: String,
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
    /// Version of the bundle.
    #[prost(string, tag = "1")]
    pub version: String,
    /// SHA-256 of the bundle.
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

impl Release {
    /// As the wire says it.
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

    /// Where it is to go on once the agent has started again; `None` when it is over.
    pub fn stage(&self) -> Option<Stage> {
        use v1::Step;
        if self.outcome.is_some() {
            return None;
        }
        let step = self.started.as_ref().map(Started::step);
        Some(
            match (step, &self.failing, &self.restarting, &self.deferred) {
                (Some(Step::Rollback), ..) => Stage::CutOff,
                (_, Some(failing), ..) => Stage::GoingBack(failing.clone()),
                (Some(Step::Script | Step::Activate), None, Some(restarting), _) => {
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
