//! How a device of a halted deployment stands. Pure.

use super::{attempt::State, named_enum};

named_enum! {
    /// How a device of a halted deployment stands.
    HaltStanding {
        /// It was told to stop, and has not answered.
        NotAnswered = "not_answered",
        /// It is offline. It is told to stop when it comes back.
        Offline = "offline",
        /// It had not begun, and never will.
        NeverBegun = "never_begun",
        Stopped = "stopped",
        /// It stopped, and goes back to the previous release.
        GoingBack = "going_back",
        /// It ended before the stop reached it.
        Ended = "ended",
    }
}

/// What has to be known about the attempts of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HaltFacts {
    /// State of the latest attempt.
    pub state: State,
    /// The device has accepted that attempt.
    pub was_taken: bool,
    /// The device may still run one of the attempts.
    pub may_run: bool,
    /// The outcome of one of the attempts is missing.
    pub unresolved: bool,
}

impl HaltFacts {
    /// The same with an earlier attempt, for which a retry may be waiting.
    #[must_use]
    pub const fn after(self, earlier: Self) -> Self {
        Self {
            may_run: self.may_run || earlier.may_run,
            unresolved: self.unresolved || earlier.unresolved,
            ..self
        }
    }

    #[must_use]
    pub const fn standing(self, online: bool) -> HaltStanding {
        match (self.may_run, online) {
            (true, true) => return HaltStanding::NotAnswered,
            (true, false) => return HaltStanding::Offline,
            (false, _) => {}
        }
        if self.unresolved {
            return HaltStanding::GoingBack;
        }
        match self.state {
            State::Succeeded | State::Failed => HaltStanding::Ended,
            _ if !self.was_taken => HaltStanding::NeverBegun,
            State::Cancelled => HaltStanding::Stopped,
            _ => HaltStanding::Ended,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_device_stands_somewhere() {
        use State as S;
        let facts = |state, was_taken, may_run, unresolved| HaltFacts {
            state,
            was_taken,
            may_run,
            unresolved,
        };
        let table = [
            (
                facts(S::Running, true, true, true),
                true,
                HaltStanding::NotAnswered,
            ),
            (
                facts(S::Sent, false, true, true),
                false,
                HaltStanding::Offline,
            ),
            (
                facts(S::Expired, true, true, true),
                false,
                HaltStanding::Offline,
            ),
            (
                facts(S::Running, true, false, true),
                true,
                HaltStanding::GoingBack,
            ),
            (
                facts(S::Running, true, false, true),
                false,
                HaltStanding::GoingBack,
            ),
            (
                facts(S::Cancelled, false, false, false),
                true,
                HaltStanding::NeverBegun,
            ),
            (
                facts(S::Superseded, false, false, false),
                true,
                HaltStanding::NeverBegun,
            ),
            (
                facts(S::Cancelled, true, false, false),
                false,
                HaltStanding::Stopped,
            ),
            (
                facts(S::Failed, true, false, false),
                true,
                HaltStanding::Ended,
            ),
            (
                facts(S::Failed, false, false, false),
                true,
                HaltStanding::Ended,
            ),
            (
                facts(S::Succeeded, true, false, false),
                true,
                HaltStanding::Ended,
            ),
            (
                facts(S::Expired, true, false, false),
                true,
                HaltStanding::Ended,
            ),
        ];
        for (facts, online, wanted) in table {
            assert_eq!(facts.standing(online), wanted, "{facts:?}");
        }
        // A retry that never began, and the attempt before it that may still run.
        let latest = facts(S::Cancelled, false, false, false);
        let earlier = facts(S::Expired, true, true, true);
        assert_eq!(
            latest.after(earlier).standing(true),
            HaltStanding::NotAnswered
        );
    }
}
