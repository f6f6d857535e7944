//! To which release a device returns when a deployment is rolled back, and which devices stay as
//! they are.

use kernex_proto::ids::Digest;

use super::{attempt::State, named_enum};

named_enum! {
    /// What a rollback does with a device.
    RollbackVerdict {
        /// It returns to what it ran before.
        GoBack = "go_back",
        /// It already runs what it ran before.
        AlreadyThere = "already_there",
        /// It never ran the deployment's bundle successfully.
        NeverRan = "never_ran",
        /// A later deployment put something else there.
        MovedOn = "moved_on",
        /// It had no release before.
        NoPrevious = "no_previous",
        /// The release it had before never succeeded on it.
        Unproven = "unproven",
        /// The bundle it had before was deleted.
        BundleGone = "bundle_gone",
        /// The device was deleted.
        DeviceGone = "device_gone",
    }
}

impl RollbackVerdict {
    /// The verdict in words, about the device.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::GoBack => "goes back",
            Self::AlreadyThere => "runs what it ran before already",
            Self::NeverRan => "never ran the bundle successfully",
            Self::MovedOn => "runs something else since, from a later deployment",
            Self::NoPrevious => "had no release before",
            Self::Unproven => "the release it had before never succeeded on it",
            Self::BundleGone => "the bundle it had before was deleted",
            Self::DeviceGone => "the device was deleted",
        }
    }
}

/// What is known about a target of the deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RollbackFacts {
    /// The device was not deleted.
    pub exists: bool,
    /// State of its latest attempt.
    pub state: State,
    /// The agent may still hold that attempt.
    pub unresolved: bool,
    /// The bundle of the deployment.
    pub wanted: Digest,
    /// An outcome of the deployment said that this bundle is active.
    pub took_effect: bool,
    /// What was active before that outcome.
    pub before: Option<Digest>,
    /// What the device is known to run now.
    pub runs: Option<Digest>,
}

impl RollbackFacts {
    /// Whether it may have begun, and its outcome is not known.
    const fn in_flight(&self) -> bool {
        self.unresolved && !matches!(self.state, State::Held | State::Pending)
    }

    /// The digest that the device would return to. [`may_return`] decides whether it may.
    ///
    /// # Errors
    /// Why the device stays as it is.
    pub fn destination(&self) -> Result<Digest, RollbackVerdict> {
        if !self.exists {
            return Err(RollbackVerdict::DeviceGone);
        }
        if self.took_effect && self.runs != Some(self.wanted) {
            return Err(if self.runs == self.before {
                RollbackVerdict::AlreadyThere
            } else {
                RollbackVerdict::MovedOn
            });
        }
        if self.took_effect {
            let before = self.before.ok_or(RollbackVerdict::NoPrevious)?;
            return if before == self.wanted {
                Err(RollbackVerdict::AlreadyThere)
            } else {
                Ok(before)
            };
        }
        if !self.in_flight() {
            return Err(RollbackVerdict::NeverRan);
        }
        // Its outcome is not known, so it returns to what it was last known to run.
        match self.runs {
            None => Err(RollbackVerdict::NoPrevious),
            Some(runs) if runs == self.wanted => Err(RollbackVerdict::AlreadyThere),
            Some(runs) => Ok(runs),
        }
    }
}

/// Whether a device may return to a release: it has succeeded on this device, and its bundle is
/// still there.
#[must_use]
pub const fn may_return(succeeded: bool, bundle_is_here: bool) -> RollbackVerdict {
    match (succeeded, bundle_is_here) {
        (false, _) => RollbackVerdict::Unproven,
        (true, false) => RollbackVerdict::BundleGone,
        (true, true) => RollbackVerdict::GoBack,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(of: &str) -> Digest {
        Digest::of(of.as_bytes())
    }

    fn succeeded() -> RollbackFacts {
        RollbackFacts {
            exists: true,
            state: State::Succeeded,
            unresolved: false,
            wanted: digest("2"),
            took_effect: true,
            before: Some(digest("1")),
            runs: Some(digest("2")),
        }
    }

    #[test]
    fn each_device_has_one_place_to_go() {
        let failed = RollbackFacts {
            state: State::Failed,
            took_effect: false,
            runs: Some(digest("1")),
            ..succeeded()
        };
        let running = RollbackFacts {
            state: State::Running,
            unresolved: true,
            ..failed
        };
        let table = [
            ("as deployed", succeeded(), Ok(digest("1"))),
            (
                "deleted",
                RollbackFacts {
                    exists: false,
                    ..succeeded()
                },
                Err(RollbackVerdict::DeviceGone),
            ),
            (
                "first of its name",
                RollbackFacts {
                    before: None,
                    ..succeeded()
                },
                Err(RollbackVerdict::NoPrevious),
            ),
            (
                "the same again",
                RollbackFacts {
                    before: Some(digest("2")),
                    ..succeeded()
                },
                Err(RollbackVerdict::AlreadyThere),
            ),
            (
                "a later one",
                RollbackFacts {
                    runs: Some(digest("3")),
                    ..succeeded()
                },
                Err(RollbackVerdict::MovedOn),
            ),
            (
                "runs nothing now",
                RollbackFacts {
                    runs: None,
                    ..succeeded()
                },
                Err(RollbackVerdict::MovedOn),
            ),
            (
                "went back since",
                RollbackFacts {
                    runs: Some(digest("1")),
                    ..succeeded()
                },
                Err(RollbackVerdict::AlreadyThere),
            ),
            (
                "failed and went back by itself",
                failed,
                Err(RollbackVerdict::NeverRan),
            ),
            (
                "could not go back by itself",
                RollbackFacts {
                    took_effect: true,
                    runs: Some(digest("2")),
                    ..failed
                },
                Ok(digest("1")),
            ),
            ("at work", running, Ok(digest("1"))),
            (
                "at work on its first",
                RollbackFacts {
                    runs: None,
                    ..running
                },
                Err(RollbackVerdict::NoPrevious),
            ),
            (
                "at work on the same",
                RollbackFacts {
                    runs: Some(digest("2")),
                    ..running
                },
                Err(RollbackVerdict::AlreadyThere),
            ),
            (
                "not begun",
                RollbackFacts {
                    state: State::Pending,
                    ..running
                },
                Err(RollbackVerdict::NeverRan),
            ),
            (
                "closed, not answered",
                RollbackFacts {
                    state: State::Expired,
                    ..running
                },
                Ok(digest("1")),
            ),
        ];
        for (what, facts, expected) in table {
            assert_eq!(facts.destination(), expected, "{what}");
        }
    }

    #[test]
    fn a_release_has_to_be_proven_and_at_hand() {
        assert_eq!(may_return(true, true), RollbackVerdict::GoBack);
        assert_eq!(may_return(true, false), RollbackVerdict::BundleGone);
        assert_eq!(may_return(false, true), RollbackVerdict::Unproven);
    }
}
