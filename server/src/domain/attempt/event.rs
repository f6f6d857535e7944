//! What happens to an attempt: facts that become known, and decisions that close it.

use super::{Ending, Step};
use crate::clock::Timestamp;

/// Something that happens to an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Something became known.
    Fact(Fact),
    /// An operator, or a deadline, closes it.
    Close(Closing),
}

/// Something that became known of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fact {
    /// Its phase opened, and there was room for it.
    Released {
        /// Until when it may wait for its device from now on.
        deadline: Timestamp,
    },
    /// It was pushed into a session.
    Sent,
    /// The agent has it in its journal.
    Accepted,
    /// The agent reports a step.
    Progress {
        step: Step,
        /// Bytes done and bytes in all.
        bytes: (u64, u64),
        /// What a stop was for runs no more.
        stopped: bool,
    },
    /// The agent reports how it ended.
    Outcome(Ending),
    /// It is in the agent's complete list, without an outcome.
    Held,
    /// It is in the agent's complete list, and its outcome follows.
    HeldEnded,
    /// It is not in the agent's complete list.
    NotHeld,
}

/// A decision that closes an attempt, or stops it where the device may have begun. Only who knows
/// what was pushed may take one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closing {
    /// An operator cancels it. A rollback that runs on the device goes on.
    Cancel,
    /// An operator halts it. A rollback that runs on the device ends as well.
    Halt,
    /// A newer deployment of the same bundle name was created.
    Supersede,
    /// Its device failed this bundle too often to get it again without an explicit retry.
    Penalise,
    /// Its device was deleted.
    DeviceGone,
    /// The deadline of its deployment passed.
    Overdue,
    /// Time passed.
    Tick,
}

impl From<Fact> for Event {
    fn from(fact: Fact) -> Self {
        Self::Fact(fact)
    }
}

impl From<Closing> for Event {
    fn from(closing: Closing) -> Self {
        Self::Close(closing)
    }
}
