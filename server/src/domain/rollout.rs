//! How a deployment proceeds over its targets, when it is finished, and how it ended. All of that
//! follows from counts and time.
//!
//! [`Rollout`] is what an operator asked for. [`plan`] says what to do next. [`mod@choose`] says
//! which targets that means.

use super::{attempt::State, named_enum};

mod choose;
mod planner;
mod shape;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

pub use choose::{Candidate, RunningByValue, choose};
pub use planner::{Action, PauseReason, PhaseFacts, Plan, RolloutFacts, plan};
pub use shape::{
    Amount, Budget, InvalidRollout, OnFailure, Percent, Phase, Rollout, TargetPlace, rank,
};

named_enum! {
    /// Where a deployment stands.
    DeploymentState {
        Scheduled = "scheduled",
        /// It opens targets.
        Active = "active",
        /// It opens no more targets until an operator resumes it.
        Paused = "paused",
        /// It waits for an operator between two phases.
        AwaitingApproval = "awaiting_approval",
        /// It was cancelled, and some devices have not answered.
        Stopping = "stopping",
        Finished = "finished",
    }
}

named_enum! {
    /// How a finished deployment ended.
    DeploymentResult {
        Succeeded = "succeeded",
        Failed = "failed",
        Cancelled = "cancelled",
        /// Newer deployments of the same bundle name replaced what was left of it.
        Superseded = "superseded",
    }
}

/// Targets by the state of their latest attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Not opened.
    pub held: u32,
    /// Opened, and not accepted by the device.
    pub pending: u32,
    /// Accepted or running.
    pub in_progress: u32,
    pub succeeded: u32,
    pub failed: u32,
    pub cancelled: u32,
    pub expired: u32,
    pub superseded: u32,
    /// Not begun, because their devices have failed the same bundle too often. No threshold counts
    /// them: they say nothing about this deployment.
    pub penalised: u32,
}

impl Counts {
    pub fn add(&mut self, state: State, n: u32) {
        *match state {
            State::Held => &mut self.held,
            State::Pending | State::Sent => &mut self.pending,
            State::Accepted | State::Running => &mut self.in_progress,
            State::Succeeded => &mut self.succeeded,
            State::Failed => &mut self.failed,
            State::Cancelled => &mut self.cancelled,
            State::Expired => &mut self.expired,
            State::Superseded => &mut self.superseded,
        } += n;
    }

    /// Adds the targets of another part of the deployment.
    pub const fn merge(&mut self, other: &Self) {
        self.held += other.held;
        self.pending += other.pending;
        self.in_progress += other.in_progress;
        self.succeeded += other.succeeded;
        self.failed += other.failed;
        self.cancelled += other.cancelled;
        self.expired += other.expired;
        self.superseded += other.superseded;
        self.penalised += other.penalised;
    }

    #[must_use]
    pub const fn open(&self) -> u32 {
        self.held + self.pending + self.in_progress
    }

    #[must_use]
    pub const fn total(&self) -> u32 {
        self.open()
            + self.succeeded
            + self.failed
            + self.cancelled
            + self.expired
            + self.superseded
            + self.penalised
    }

    /// How a deployment with these targets ended; `None` while a target is open. After a cancel the
    /// result is cancelled, unless all targets had succeeded by then.
    #[must_use]
    pub const fn result(&self, cancelled: bool) -> Option<DeploymentResult> {
        if self.open() > 0 {
            return None;
        }
        Some(if self.succeeded == self.total() && self.succeeded > 0 {
            DeploymentResult::Succeeded
        } else if cancelled {
            DeploymentResult::Cancelled
        } else if self.failed + self.expired + self.penalised > 0 {
            DeploymentResult::Failed
        } else if self.superseded > 0 {
            DeploymentResult::Superseded
        } else {
            DeploymentResult::Cancelled
        })
    }
}
