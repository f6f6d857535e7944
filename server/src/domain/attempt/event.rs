//! What happens to an attempt: facts that become known, and decisions that close it.

use super::{Ending, Step};
use crate::clock::Timestamp;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Fact(Fact),
    /// An operator or a deadline closes it.
    Close(Closing),
}

/// Something that became known about an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fact {
    /// Its phase opened, and there was room for it.
    Opened {
        /// Until when it may wait for its device.
        deadline: Timestamp,
    },
    /// It was pushed into a session.
    Sent,
    /// The agent has it in its journal.
    Accepted,
    /// The agent reports a step.
    Progress {
        step: Step,
        /// Bytes of the step that are done, and bytes in all.
        bytes: (u64, u64),
        /// Nothing runs any more that a stop was for.
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

/// A decision that closes an attempt, or stops one that its device may have begun. Only a
/// transaction that knows what was pushed may make one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closing {
    /// An operator cancels it. A rollback on the device goes on.
    Cancel,
    /// An operator halts it. A rollback on the device ends, too.
    Halt,
    /// A newer deployment of the same bundle name was created.
    Supersede,
    /// Its device failed this bundle too often to get it without an explicit retry.
    Penalise,
    /// Its device was deleted.
    DeviceGone,
    /// The deadline of its deployment passed.
    Overdue,
    /// Time has passed, so one of its own deadlines may have.
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
