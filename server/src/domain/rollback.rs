//! Where a device goes when a deployment is taken back, and which devices are left as they are.

use kernex_proto::ids::Digest;

use super::{attempt::State, named_enum};

named_enum! {
    /// What a rollback does with a device.
    Verdict {
        /// It goes back.
        GoBack = "go_back",
        /// It runs what it ran before already.
        AlreadyThere = "already_there",
        /// It never ran the deployment's bundle successfully.
        NeverRan = "never_ran",
        /// It runs something else since, from a later deployment.
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

impl Verdict {
    /// For people, about the device.
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

/// What is known of a device that a deployment was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// The device is still under management.
    pub exists: bool,
    /// Where its latest attempt stands.
    pub state: State,
    /// The agent may still hold that attempt.
    pub unresolved: bool,
    /// What the deployment wanted to run.
    pub wanted: Digest,
    /// Some outcome of the deployment said that this is what runs.
    pub took_effect: bool,
    /// What ran before that outcome.
    pub before: Option<Digest>,
    /// What the device is known to run now.
    pub runs: Option<Digest>,
}

impl Facts {
    /// It may have begun, and how it ended is not known.
    const fn in_flight(&self) -> bool {
        self.unresolved && !matches!(self.state, State::Held | State::Pending)
    }

    /// Where the device would go, if anywhere: the digest, or why not. Whether it can is decided by
    /// [`may_return`].
    ///
    /// # Errors
    /// What keeps the device as it is.
    pub fn destination(&self) -> Result<Digest, Verdict> {
        if !self.exists {
            return Err(Verdict::DeviceGone);
        }
        if self.took_effect && self.runs != Some(self.wanted) {
            return Err(if self.runs == self.before {
                Verdict::AlreadyThere
            } else {
                Verdict::MovedOn
            });
        }
        if self.took_effect {
            let before = self.before.ok_or(Verdict::NoPrevious)?;
            return if before == self.wanted {
                Err(Verdict::AlreadyThere)
            } else {
                Ok(before)
            };
        }
        if !self.in_flight() {
            return Err(Verdict::NeverRan);
        }
        // Whatever comes of what it is at, what it ran last is what it ran before.
        match self.runs {
            None => Err(Verdict::NoPrevious),
            Some(runs) if runs == self.wanted => Err(Verdict::AlreadyThere),
            Some(runs) => Ok(runs),
        }
    }
}

/// Whether a device may return to a release: it has to have succeeded there once, and the bundle to
/// be here still.
#[must_use]
pub const fn may_return(succeeded: bool, bundle_is_here: bool) -> Verdict {
    match (succeeded, bundle_is_here) {
        (false, _) => Verdict::Unproven,
        (true, false) => Verdict::BundleGone,
        (true, true) => Verdict::GoBack,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(of: &str) -> Digest {
        Digest::of(of.as_bytes())
    }

    fn succeeded() -> Facts {
        Facts {
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
        let failed = Facts {
            state: State::Failed,
            took_effect: false,
            runs: Some(digest("1")),
            ..succeeded()
        };
        let running = Facts {
            state: State::Running,
            unresolved: true,
            ..failed
        };
        let table = [
            ("as deployed", succeeded(), Ok(digest("1"))),
            (
                "deleted",
                Facts {
                    exists: false,
                    ..succeeded()
                },
                Err(Verdict::DeviceGone),
            ),
            (
                "first of its name",
                Facts {
                    before: None,
                    ..succeeded()
                },
                Err(Verdict::NoPrevious),
            ),
            (
                "the same again",
                Facts {
                    before: Some(digest("2")),
                    ..succeeded()
                },
                Err(Verdict::AlreadyThere),
            ),
            (
                "a later one",
                Facts {
                    runs: Some(digest("3")),
                    ..succeeded()
                },
                Err(Verdict::MovedOn),
            ),
            (
                "runs nothing now",
                Facts {
                    runs: None,
                    ..succeeded()
                },
                Err(Verdict::MovedOn),
            ),
            (
                "went back since",
                Facts {
                    runs: Some(digest("1")),
                    ..succeeded()
                },
                Err(Verdict::AlreadyThere),
            ),
            (
                "failed and went back by itself",
                failed,
                Err(Verdict::NeverRan),
            ),
            (
                "could not go back by itself",
                Facts {
                    took_effect: true,
                    runs: Some(digest("2")),
                    ..failed
                },
                Ok(digest("1")),
            ),
            ("at work", running, Ok(digest("1"))),
            (
                "at work on its first",
                Facts {
                    runs: None,
                    ..running
                },
                Err(Verdict::NoPrevious),
            ),
            (
                "at work on the same",
                Facts {
                    runs: Some(digest("2")),
                    ..running
                },
                Err(Verdict::AlreadyThere),
            ),
            (
                "not begun",
                Facts {
                    state: State::Pending,
                    ..running
                },
                Err(Verdict::NeverRan),
            ),
            (
                "closed, not answered",
                Facts {
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
        assert_eq!(may_return(true, true), Verdict::GoBack);
        assert_eq!(may_return(true, false), Verdict::BundleGone);
        assert_eq!(may_return(false, true), Verdict::Unproven);
    }
}
