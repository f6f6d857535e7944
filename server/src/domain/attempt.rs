//! How an attempt may change. `apply` is the only way to change its state. The store writes the
//! result by compare-and-set.
//!
//! `held -> pending -> sent -> accepted -> running -> succeeded
//! failed`; from each open state also `cancelled
//! expired
//! superseded`. A state never goes back, and a closed attempt stays closed. An outcome that arrives
//! after that is kept beside the state, once, as a late outcome.
//!
//! An attempt can be closed here while the device still runs it. Then it is *unresolved*, until the
//! agent answers or shows that it does not hold the attempt.

use std::time::Duration;

use crate::clock::Timestamp;

mod answer;
mod event;
mod output;
mod run;
mod sent;
#[cfg(test)]
mod tests;
mod words;

pub use answer::{Disposition, disposition};
pub use event::{Closing, Event, Fact};
pub use output::{OutputMark, OutputStream, fitting};
pub use run::{Deferral, next_run};
pub use sent::Sent;
pub use words::{Ending, FailureReason, State, Step};

/// A command that was not answered for this long is pushed once more, because it may have been lost
/// on the way. Agents recognise a repetition.
pub const UNHEARD: Duration = Duration::from_secs(30);

/// The facts that decide what may happen to an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    pub state: State,
    pub reason: Option<FailureReason>,
    /// What the device does now, or did last.
    pub step: Option<Step>,
    /// Bytes of the step that are done, and bytes in all.
    pub bytes: (u64, u64),
    /// The agent may still hold it, so the next attempt of the same bundle name waits.
    pub unresolved: bool,
    /// It was pushed, but the complete list of its device shows that it did not arrive. It may be
    /// closed as if it had never been pushed.
    pub untaken: bool,
    /// A stop was asked for and not answered yet.
    pub stop_requested: bool,
    /// That stop ends a rollback on the device as well.
    pub stop_going_back: bool,
    /// The agent has said that nothing runs any more that the stop was for. Its outcome may still
    /// be missing.
    pub stopped: bool,
    /// The agent's outcome is known, whether it came in time or late.
    pub answered: bool,
    /// The outcome that came after the attempt had closed.
    pub late: Option<Ending>,
    /// Until when it may wait for its device.
    pub delivery_deadline: Timestamp,
    /// How long it may take once accepted.
    pub execution: Duration,
    /// Until when it must have ended. Set once it is accepted.
    pub execution_deadline: Option<Timestamp>,
    /// When the agent wrote it to its journal.
    pub accepted_at: Option<Timestamp>,
    pub closed_at: Option<Timestamp>,
}

/// A stop, as a device is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopOrder {
    /// Going back to the previous release ends, too.
    pub going_back: bool,
    /// The deadline has passed; no operator stopped it.
    pub overdue: bool,
}

/// What an event did to an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// The attempt as it is now.
    Applied(Attempt),
    /// The attempt had closed before. Its state stays, and these are the facts beside it.
    Late(Attempt),
    Unchanged,
}

impl Effect {
    /// The attempt to store, if anything changed.
    #[must_use]
    pub fn changed(self) -> Option<Attempt> {
        match self {
            Self::Applied(attempt) | Self::Late(attempt) => Some(attempt),
            Self::Unchanged => None,
        }
    }
}

impl Attempt {
    /// A new attempt that waits for its phase.
    #[must_use]
    pub fn held(execution: Duration) -> Self {
        Self::new(State::Held, Timestamp(i64::MAX), execution)
    }

    #[must_use]
    pub fn new(state: State, delivery_deadline: Timestamp, execution: Duration) -> Self {
        Self {
            state,
            reason: None,
            step: None,
            bytes: (0, 0),
            unresolved: state.is_open(),
            untaken: false,
            stop_requested: false,
            stop_going_back: false,
            stopped: false,
            answered: false,
            late: None,
            delivery_deadline,
            execution,
            execution_deadline: None,
            accepted_at: None,
            closed_at: None,
        }
    }

    /// Whether its device has accepted it, and has not reported an outcome.
    #[must_use]
    pub const fn is_at_work(&self) -> bool {
        matches!(self.state, State::Accepted | State::Running)
    }

    /// Whether its device cannot have it: it was not pushed, or it did not arrive.
    #[must_use]
    pub const fn has_not_begun(&self) -> bool {
        matches!(self.state, State::Held | State::Pending)
            || matches!(self.state, State::Sent) && self.untaken
    }

    fn close(mut self, state: State, reason: Option<FailureReason>, now: Timestamp) -> Self {
        self.state = state;
        self.reason = reason;
        self.closed_at = Some(now);
        self.unresolved = false;
        self.untaken = false;
        self.stop_requested = false;
        self.stop_going_back = false;
        self
    }

    fn accept(mut self, now: Timestamp) -> Self {
        self.state = State::Accepted;
        self.untaken = false;
        self.accepted_at = Some(now);
        self.execution_deadline = Some(now.plus(self.execution));
        self
    }

    /// Whether, as far as the server knows, nothing runs on the device that a stop was for.
    #[must_use]
    pub const fn is_stopped(&self) -> bool {
        self.stopped && !self.stop_going_back || !self.unresolved
    }

    /// The stop that is sent to its device.
    #[must_use]
    pub const fn stop_order(&self) -> StopOrder {
        StopOrder {
            going_back: self.stop_going_back,
            overdue: matches!(self.state, State::Expired),
        }
    }

    /// Asks for a stop, and with `with_going_back` for the end of a rollback as well. False when
    /// that was asked for before.
    fn stop(&mut self, with_going_back: bool) -> bool {
        let ends_going_back =
            with_going_back && !self.stop_going_back && self.step == Some(Step::Rollback);
        let is_news = !self.stop_requested || ends_going_back;
        self.stop_requested = true;
        self.stop_going_back |= ends_going_back;
        is_news
    }

    /// The agent holds an attempt that was closed here. It is told to stop, and the next attempt
    /// waits.
    fn call_back(mut self) -> Effect {
        if self.answered || (self.unresolved && self.stop_requested) {
            return Effect::Unchanged;
        }
        self.unresolved = true;
        self.stop_requested = true;
        Effect::Late(self)
    }

    /// The agent runs an attempt that was closed here. Its step is of interest until it reports an
    /// outcome.
    fn late_progress(mut self, step: Step, stopped: bool) -> Effect {
        if self.answered {
            return Effect::Unchanged;
        }
        let before = self.clone();
        self.unresolved = true;
        self.stop_requested = true;
        self.stopped |= stopped;
        // Only a rollback is noted. Earlier steps say how far the attempt was when it was closed.
        if step == Step::Rollback {
            self.step = Some(step);
        }
        if self == before {
            return Effect::Unchanged;
        }
        Effect::Late(self)
    }
}

/// Applies an event. `attempt` itself stays as it is.
#[must_use]
pub fn apply(attempt: &Attempt, event: impl Into<Event>, now: Timestamp) -> Effect {
    use State as S;
    let mut next = attempt.clone();
    let event = event.into();
    match event {
        Event::Fact(Fact::Opened { deadline }) => match attempt.state {
            S::Held => {
                next.state = S::Pending;
                next.delivery_deadline = deadline;
                Effect::Applied(next)
            }
            _ => Effect::Unchanged,
        },
        // Pushes are written later. The attempt may have changed meanwhile, or have been closed as
        // never pushed.
        Event::Fact(Fact::Sent) => match attempt.state {
            S::Held | S::Pending => {
                next.state = S::Sent;
                Effect::Applied(next)
            }
            S::Sent if attempt.untaken => {
                next.untaken = false;
                Effect::Applied(next)
            }
            S::Sent | S::Accepted | S::Running => Effect::Unchanged,
            S::Cancelled | S::Expired | S::Superseded => next.call_back(),
            S::Succeeded | S::Failed => Effect::Unchanged,
        },
        Event::Fact(Fact::Accepted) | Event::Fact(Fact::Held) => match attempt.state {
            S::Held | S::Pending | S::Sent => Effect::Applied(next.accept(now)),
            S::Accepted | S::Running => Effect::Unchanged,
            S::Succeeded | S::Failed | S::Cancelled | S::Expired | S::Superseded => {
                next.call_back()
            }
        },
        Event::Fact(Fact::HeldEnded) => match attempt.state {
            S::Held | S::Pending | S::Sent => Effect::Applied(next.accept(now)),
            _ => Effect::Unchanged,
        },
        Event::Fact(Fact::Progress {
            step,
            bytes,
            stopped,
        }) => {
            match attempt.state {
                S::Held | S::Pending | S::Sent => next = next.accept(now),
                S::Accepted | S::Running => {}
                S::Succeeded | S::Failed | S::Cancelled | S::Expired | S::Superseded => {
                    return next.late_progress(step, stopped);
                }
            }
            next.state = S::Running;
            next.step = Some(step);
            next.bytes = bytes;
            // An older report may be written after a newer one.
            next.stopped |= stopped;
            if next == *attempt {
                return Effect::Unchanged;
            }
            Effect::Applied(next)
        }
        Event::Fact(Fact::Outcome(ending)) => {
            if attempt.answered {
                return Effect::Unchanged;
            }
            next.answered = true;
            if attempt.state.is_open() {
                next.accepted_at = attempt.accepted_at.or(Some(now));
                return Effect::Applied(next.close(ending.state(), ending.reason(), now));
            }
            next.late = Some(ending);
            next.unresolved = false;
            next.stop_requested = false;
            next.stop_going_back = false;
            Effect::Late(next)
        }
        Event::Close(Closing::Cancel | Closing::Halt) if attempt.has_not_begun() => {
            Effect::Applied(next.close(S::Cancelled, None, now))
        }
        Event::Close(Closing::Cancel | Closing::Halt) => {
            let with_going_back = matches!(event, Event::Close(Closing::Halt));
            match attempt.state {
                S::Sent | S::Accepted | S::Running if next.stop(with_going_back) => {
                    Effect::Applied(next)
                }
                S::Held | S::Pending | S::Sent | S::Accepted | S::Running => Effect::Unchanged,
                S::Succeeded | S::Failed | S::Cancelled | S::Expired | S::Superseded => {
                    if with_going_back && attempt.unresolved && next.stop(true) {
                        return Effect::Late(next);
                    }
                    Effect::Unchanged
                }
            }
        }
        // A device that may have begun goes on to the end. The newer attempt waits.
        Event::Close(Closing::Supersede) if attempt.has_not_begun() => {
            Effect::Applied(next.close(S::Superseded, None, now))
        }
        Event::Close(Closing::Supersede) => Effect::Unchanged,
        Event::Close(Closing::Penalise) => match attempt.state {
            S::Held | S::Pending => {
                Effect::Applied(next.close(S::Failed, Some(FailureReason::Penalised), now))
            }
            _ => Effect::Unchanged,
        },
        Event::Close(Closing::Overdue) => {
            if attempt.state.is_open() {
                return Effect::Applied(expire(next, now));
            }
            Effect::Unchanged
        }
        Event::Close(Closing::DeviceGone) => {
            if attempt.state.is_open() {
                return Effect::Applied(next.close(S::Cancelled, None, now));
            }
            resolve(next)
        }
        Event::Close(Closing::Tick) => tick(next, now),
        Event::Fact(Fact::NotHeld) => match attempt.state {
            S::Accepted | S::Running => {
                Effect::Applied(next.close(S::Failed, Some(FailureReason::JournalLost), now))
            }
            // It will never run, so the stop needs no answer.
            S::Sent if attempt.stop_requested => {
                Effect::Applied(next.close(S::Cancelled, None, now))
            }
            S::Sent if !attempt.untaken => {
                next.untaken = true;
                Effect::Applied(next)
            }
            S::Held | S::Pending | S::Sent => Effect::Unchanged,
            S::Succeeded | S::Failed | S::Cancelled | S::Expired | S::Superseded => resolve(next),
        },
    }
}

/// The agent does not hold a closed attempt, so nothing waits for it any more.
fn resolve(mut closed: Attempt) -> Effect {
    if !closed.unresolved {
        return Effect::Unchanged;
    }
    closed.unresolved = false;
    closed.stop_requested = false;
    closed.stop_going_back = false;
    Effect::Applied(closed)
}

fn tick(attempt: Attempt, now: Timestamp) -> Effect {
    let deadline = match attempt.state {
        State::Held | State::Pending | State::Sent => Some(attempt.delivery_deadline),
        State::Accepted | State::Running => attempt.execution_deadline,
        _ => None,
    };
    if deadline.is_none_or(|deadline| now < deadline) {
        return Effect::Unchanged;
    }
    Effect::Applied(expire(attempt, now))
}

fn expire(attempt: Attempt, now: Timestamp) -> Attempt {
    // An attempt that was pushed may be running. It stays unresolved, and its device is told to
    // stop once it can be reached.
    let out_there = !attempt.has_not_begun();
    let mut closed = attempt.close(State::Expired, None, now);
    closed.unresolved = out_there;
    closed.stop_requested = out_there;
    closed
}
