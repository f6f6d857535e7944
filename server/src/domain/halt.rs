//! What became of a device whose deployment was halted; pure.

use super::{attempt::State, named_enum};

named_enum! {
    /// What became of a device in a halt.
    HaltStanding {
        /// It was told, and has not answered.
        NotAnswered = "not_answered",
        /// It is away, and is told when it comes back.
        Offline = "offline",
        /// Nothing of it had begun, and nothing will.
        NeverBegun = "never_begun",
        /// What ran was ended, and the device is done.
        Stopped = "stopped",
        /// What ran was ended, and the device goes back.
        GoingBack = "going_back",
        /// It ended in another way before the stop could.
        Ended = "ended",
    }
}

/// The attempts of one target, as far as a halt is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HaltFacts {
    /// State of the latest one.
    pub state: State,
    /// The device is known to have had that in its journal.
    pub was_taken: bool,
    /// Of one of them the device may still run what a stop was to end.
    pub may_run: bool,
    /// The device still has to say how one of them ended.
    pub unresolved: bool,
}

impl HaltFacts {
    /// The same with what is known of an earlier attempt, which a retry may be waiting for.
    #[must_use]
    pub const fn after(self, earlier: Self) -> Self {
        Self {
            may_run: self.may_run || earlier.may_run,
            unresolved: self.unresolved || earlier.unresolved,
            ..self
        }
    }

    /// What became of the device.
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
