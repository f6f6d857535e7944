//! What a target waits for that has not begun. Pure.

use super::{attempt::State, named_enum, rollout::DeploymentState};

named_enum! {
    /// What a target waits for.
    WaitReason {
        /// The start of its deployment.
        Start = "start",
        /// Its phase to open.
        Phase = "phase",
        /// An operator to promote its phase.
        Approval = "approval",
        /// An operator to resume its deployment.
        Paused = "paused",
        /// Room among the targets that may be in flight at once.
        Room = "room",
        /// Room within a disruption budget.
        Budget = "budget",
        /// A window, or its moment within the spread.
        Window = "window",
        /// An operator to decide between copies of its device.
        Conflict = "conflict",
        /// Its device to come back.
        Device = "device",
        /// The disk of its device to be repaired.
        Disk = "disk",
        /// Another deployment of the same bundle name, or an earlier attempt of its own, to end.
        Deployment = "deployment",
        /// Its device to answer.
        Answer = "answer",
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitFacts {
    /// State of its latest attempt.
    pub state: State,
    /// Where its deployment stands.
    pub deployment: DeploymentState,
    /// Its phase is open, or the deployment has none.
    pub is_phase_open: bool,
    /// As many are in flight as may be.
    pub is_full: bool,
    /// The deployment has disruption budgets.
    pub has_budgets: bool,
    /// Time alone holds it back.
    pub waits_for_time: bool,
    /// Its device is conflicted.
    pub is_conflicted: bool,
    /// Its device has a session.
    pub is_online: bool,
    pub is_disk_sick: bool,
    /// Something older of the same bundle name is not over on its device.
    pub is_behind: bool,
}

/// What a target waits for. `None` once its device has begun, or when it is over. A reason that
/// only a person can change comes before one that passes by itself.
#[must_use]
pub const fn waits_for(facts: &WaitFacts) -> Option<WaitReason> {
    let is_held = matches!(facts.state, State::Held);
    let is_sent = matches!(facts.state, State::Sent);
    if !is_held && !is_sent && !matches!(facts.state, State::Pending) {
        return None;
    }
    if matches!(
        facts.deployment,
        DeploymentState::Finished | DeploymentState::Stopping
    ) {
        return None;
    }
    if is_held {
        return Some(match facts.deployment {
            DeploymentState::Scheduled => WaitReason::Start,
            DeploymentState::Paused => WaitReason::Paused,
            DeploymentState::AwaitingApproval if !facts.is_phase_open => WaitReason::Approval,
            _ if !facts.is_phase_open => WaitReason::Phase,
            _ if facts.is_full || !facts.has_budgets => WaitReason::Room,
            _ => WaitReason::Budget,
        });
    }
    Some(if facts.is_conflicted {
        WaitReason::Conflict
    } else if matches!(facts.deployment, DeploymentState::Paused) && !is_sent {
        WaitReason::Paused
    } else if !facts.is_online {
        WaitReason::Device
    } else if facts.is_disk_sick {
        WaitReason::Disk
    } else if facts.is_behind {
        WaitReason::Deployment
    } else if facts.waits_for_time && !is_sent {
        WaitReason::Window
    } else {
        WaitReason::Answer
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PENDING: WaitFacts = WaitFacts {
        state: State::Pending,
        deployment: DeploymentState::Active,
        is_phase_open: true,
        is_full: false,
        has_budgets: false,
        waits_for_time: false,
        is_conflicted: false,
        is_online: true,
        is_disk_sick: false,
        is_behind: false,
    };

    #[test]
    fn a_target_that_has_begun_or_is_over_waits_for_nothing() {
        for state in State::ALL.iter().copied() {
            let waits = waits_for(&WaitFacts { state, ..PENDING }).is_some();
            let may_wait = matches!(state, State::Held | State::Pending | State::Sent);
            assert_eq!(waits, may_wait, "{state}");
        }
        for deployment in [DeploymentState::Finished, DeploymentState::Stopping] {
            assert_eq!(
                waits_for(&WaitFacts {
                    deployment,
                    ..PENDING
                }),
                None
            );
        }
    }

    #[test]
    fn each_thing_that_holds_a_target_back_has_its_name() {
        let held = WaitFacts {
            state: State::Held,
            ..PENDING
        };
        let shut = WaitFacts {
            is_phase_open: false,
            ..held
        };
        let of = |deployment, facts| WaitFacts {
            deployment,
            ..facts
        };
        let table = [
            (of(DeploymentState::Scheduled, shut), WaitReason::Start),
            (of(DeploymentState::Paused, shut), WaitReason::Paused),
            (
                of(DeploymentState::AwaitingApproval, shut),
                WaitReason::Approval,
            ),
            (shut, WaitReason::Phase),
            (held, WaitReason::Room),
            (
                WaitFacts {
                    has_budgets: true,
                    ..held
                },
                WaitReason::Budget,
            ),
            (
                WaitFacts {
                    has_budgets: true,
                    is_full: true,
                    ..held
                },
                WaitReason::Room,
            ),
            (PENDING, WaitReason::Answer),
            (of(DeploymentState::Paused, PENDING), WaitReason::Paused),
            (
                WaitFacts {
                    is_conflicted: true,
                    ..PENDING
                },
                WaitReason::Conflict,
            ),
            (
                WaitFacts {
                    is_online: false,
                    ..PENDING
                },
                WaitReason::Device,
            ),
            (
                WaitFacts {
                    is_disk_sick: true,
                    ..PENDING
                },
                WaitReason::Disk,
            ),
            (
                WaitFacts {
                    is_behind: true,
                    ..PENDING
                },
                WaitReason::Deployment,
            ),
            (
                WaitFacts {
                    waits_for_time: true,
                    ..PENDING
                },
                WaitReason::Window,
            ),
        ];
        for (facts, expected) in table {
            assert_eq!(waits_for(&facts), Some(expected), "{facts:?}");
        }
        // A window does not matter once the command was pushed, nor while its device is away.
        let sent = WaitFacts {
            state: State::Sent,
            waits_for_time: true,
            ..PENDING
        };
        assert_eq!(waits_for(&sent), Some(WaitReason::Answer));
        let away = WaitFacts {
            is_online: false,
            ..sent
        };
        assert_eq!(waits_for(&away), Some(WaitReason::Device));
    }
}
