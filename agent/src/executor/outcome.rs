//! What the end of a script means, and which outcome an attempt ends with; pure.

use kernex_proto::{
    error::chain,
    manifest::TRY_AGAIN_EXIT_CODE,
    v1::{AttemptState, FailureReason, Outcome, Step},
};

use crate::{bundle::fetch::FetchError, bundle::unpack::UnpackError, sandbox::ScriptEnd};

/// Most bytes of an outcome's message.
const MESSAGE_LIMIT: usize = 4 * 1024;

/// Why the steps of an attempt end early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum StepError {
    Failed {
        reason: FailureReason,
        message: String,
        /// Exit code of the script, when one exited.
        exit_code: Option<i32>,
    },
    Stopped,
    ShuttingDown,
    /// `hooks.pre` asked to be asked again later.
    Deferred,
    /// The agent is stopping, and the attempt continues after that.
    Restarting,
}

/// What follows a script that succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AfterScript {
    Next,
    /// A restart, then the next step.
    Restart,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct RanScript {
    /// What it is called in the manifest.
    pub(super) name: &'static str,
    pub(super) step: Step,
    pub(super) limit_seconds: u64,
    /// It may ask for a restart.
    pub(super) may_restart: bool,
}

/// How going back ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RollbackResult {
    /// The release of this version works again.
    To(String),
    /// There was no release before.
    Nothing,
    /// The release of this version (empty when not known) does not work again, and why.
    Failed(String, String),
}

/// The outcome of an attempt that failed with `outcome` and then went back.
pub(super) fn with_rollback_result(mut outcome: Outcome, back: &RollbackResult) -> Outcome {
    let more = match back {
        RollbackResult::To(version) => format!("went back to {version}"),
        RollbackResult::Nothing => "there is no release to go back to".to_owned(),
        RollbackResult::Failed(version, why) => {
            outcome.state = AttemptState::Failed.into();
            outcome.reason = FailureReason::RollbackFailed.into();
            let to = if version.is_empty() {
                "the previous release"
            } else {
                version
            };
            format!("going back to {to} failed: {why}")
        }
    };
    // The first message may be long; what is added must not be cut off.
    let room = MESSAGE_LIMIT.saturating_sub(more.len() + 2);
    outcome
        .message
        .truncate(outcome.message.floor_char_boundary(room));
    outcome.message = format!("{}; {more}", outcome.message);
    outcome
        .message
        .truncate(outcome.message.floor_char_boundary(MESSAGE_LIMIT));
    outcome
}

impl StepError {
    /// Why a rollback script or probe did not finish, as part of a sentence.
    pub(super) fn rollback_failure_text(self, what: &str) -> String {
        match self {
            Self::Failed { message, .. } => message,
            Self::Stopped => format!("{what} was stopped by an operator and is unfinished"),
            Self::ShuttingDown | Self::Deferred | Self::Restarting => {
                format!("{what} is unfinished, because the agent was stopped")
            }
        }
    }

    /// A failure without an exit code.
    pub(super) fn failed(reason: FailureReason, message: impl Into<String>) -> Self {
        Self::Failed {
            reason,
            message: message.into(),
            exit_code: None,
        }
    }

    /// An error that should not happen; `what` could not be done.
    pub(super) fn internal(what: &str, err: &(dyn std::error::Error + 'static)) -> Self {
        Self::failed(FailureReason::Internal, format!("{what}: {}", chain(err)))
    }

    /// The outcome of an attempt that ends like this once something of it has begun.
    pub(super) fn into_outcome(self) -> Outcome {
        let (state, reason, mut message, exit_code) = match self {
            Self::Failed {
                reason,
                message,
                exit_code,
            } => (AttemptState::Failed, reason, message, exit_code),
            Self::Stopped => (
                AttemptState::Cancelled,
                FailureReason::Unspecified,
                "stopped by an operator".to_owned(),
                None,
            ),
            Self::ShuttingDown | Self::Deferred | Self::Restarting => (
                AttemptState::Failed,
                FailureReason::Interrupted,
                "the agent was stopped while this was running".to_owned(),
                None,
            ),
        };
        message.truncate(message.floor_char_boundary(MESSAGE_LIMIT));
        Outcome {
            state: state.into(),
            reason: reason.into(),
            message,
            exit_code,
            ..Outcome::default()
        }
    }
}

impl From<FetchError> for StepError {
    fn from(err: FetchError) -> Self {
        Self::failed(err.reason(), err.to_string())
    }
}

impl From<UnpackError> for StepError {
    fn from(err: UnpackError) -> Self {
        Self::failed(err.reason(), err.to_string())
    }
}

/// What the end of a script means. `stopped`: an operator asked for it.
pub(super) fn after_script(
    ran: &RanScript,
    ended: ScriptEnd,
    stopped: bool,
) -> Result<AfterScript, StepError> {
    let what = ran.name;
    let limit_seconds = ran.limit_seconds;
    match ended {
        ScriptEnd::Exited(0) => Ok(AfterScript::Next),
        ScriptEnd::Exited(TRY_AGAIN_EXIT_CODE) if ran.step == Step::PreHook => {
            Err(StepError::Deferred)
        }
        ScriptEnd::Exited(TRY_AGAIN_EXIT_CODE) if ran.may_restart => Ok(AfterScript::Restart),
        ScriptEnd::Exited(code) => Err(StepError::Failed {
            reason: match ran.step {
                Step::PreHook => FailureReason::Refused,
                _ => FailureReason::ScriptFailed,
            },
            message: format!("{what} exited with {code}"),
            exit_code: Some(code),
        }),
        ScriptEnd::Signalled(signal) => Err(StepError::failed(
            FailureReason::ScriptFailed,
            format!("{what} was killed by signal {signal}"),
        )),
        ScriptEnd::TimedOut => Err(StepError::failed(
            FailureReason::ScriptTimeout,
            format!("{what} outlived its limit of {limit_seconds} s and was killed"),
        )),
        ScriptEnd::Interrupted if stopped => Err(StepError::Stopped),
        ScriptEnd::Interrupted => Err(StepError::ShuttingDown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(step: Step, may_restart: bool) -> RanScript {
        RanScript {
            name: "x",
            step,
            limit_seconds: 300,
            may_restart,
        }
    }

    #[test]
    fn exit_code_75_asks_for_more_time_where_that_is_known() {
        let after =
            |step, may_restart| after_script(&ran(step, may_restart), ScriptEnd::Exited(75), false);
        assert_eq!(after(Step::PreHook, false), Err(StepError::Deferred));
        assert_eq!(after(Step::PreHook, true), Err(StepError::Deferred));
        for step in [Step::Script, Step::PostHook, Step::Rollback] {
            assert_eq!(after(step, true), Ok(AfterScript::Restart));
        }
        for (step, may_restart) in [
            (Step::Script, false),
            (Step::PostHook, false),
            (Step::Rollback, false),
            (Step::Health, false),
        ] {
            let outcome = after(step, may_restart).unwrap_err().into_outcome();
            assert_eq!(outcome.reason(), FailureReason::ScriptFailed, "{step:?}");
        }
    }

    #[test]
    fn an_outcome_says_what_failed_and_what_came_of_going_back() {
        use FailureReason::{HealthCheck, RollbackFailed, Unspecified};
        let unhealthy = || StepError::failed(HealthCheck, "health: bad").into_outcome();
        let stopped = || StepError::Stopped.into_outcome();
        let failed = RollbackResult::Failed("1.0".into(), "rollback.script exited with 3".into());
        let lost = RollbackResult::Failed(String::new(), "no such file".into());
        let table = [
            (
                unhealthy(),
                RollbackResult::To("1.0".into()),
                (AttemptState::Failed, HealthCheck),
                "health: bad; went back to 1.0",
            ),
            (
                unhealthy(),
                RollbackResult::Nothing,
                (AttemptState::Failed, HealthCheck),
                "health: bad; there is no release to go back to",
            ),
            (
                unhealthy(),
                failed.clone(),
                (AttemptState::Failed, RollbackFailed),
                "health: bad; going back to 1.0 failed: rollback.script exited with 3",
            ),
            (
                stopped(),
                RollbackResult::To("1.0".into()),
                (AttemptState::Cancelled, Unspecified),
                "stopped by an operator; went back to 1.0",
            ),
            (
                stopped(),
                lost,
                (AttemptState::Failed, RollbackFailed),
                "stopped by an operator; going back to the previous release failed: no such file",
            ),
        ];
        for (outcome, back, wanted, message) in table {
            let outcome = with_rollback_result(outcome, &back);
            assert_eq!((outcome.state(), outcome.reason()), wanted, "{back:?}");
            assert_eq!(outcome.message, message);
        }
        let long = StepError::failed(HealthCheck, "ä".repeat(4000)).into_outcome();
        let message = with_rollback_result(long, &failed).message;
        assert!(message.len() <= MESSAGE_LIMIT && message.ends_with("exited with 3"));
    }

    #[test]
    fn each_end_of_a_script_has_one_meaning() {
        use FailureReason::{Interrupted, ScriptFailed, ScriptTimeout, Unspecified};
        let table = [
            (
                ScriptEnd::Exited(3),
                false,
                AttemptState::Failed,
                ScriptFailed,
                Some(3),
            ),
            // A stop that came too late does not change how the script ended.
            (
                ScriptEnd::Exited(3),
                true,
                AttemptState::Failed,
                ScriptFailed,
                Some(3),
            ),
            (
                ScriptEnd::Signalled(9),
                false,
                AttemptState::Failed,
                ScriptFailed,
                None,
            ),
            (
                ScriptEnd::TimedOut,
                false,
                AttemptState::Failed,
                ScriptTimeout,
                None,
            ),
            (
                ScriptEnd::Interrupted,
                true,
                AttemptState::Cancelled,
                Unspecified,
                None,
            ),
            (
                ScriptEnd::Interrupted,
                false,
                AttemptState::Failed,
                Interrupted,
                None,
            ),
        ];
        for (ended, stopped, state, reason, code) in table {
            let outcome = after_script(&ran(Step::Script, false), ended, stopped)
                .unwrap_err()
                .into_outcome();
            assert_eq!(
                (outcome.state(), outcome.reason(), outcome.exit_code),
                (state, reason, code),
                "{ended:?}"
            );
        }
        assert_eq!(
            after_script(&ran(Step::Script, true), ScriptEnd::Exited(0), true),
            Ok(AfterScript::Next)
        );
    }

    #[test]
    fn a_pre_hook_that_says_no_refuses() {
        let refused = after_script(&ran(Step::PreHook, false), ScriptEnd::Exited(3), false)
            .unwrap_err()
            .into_outcome();
        assert_eq!(refused.reason(), FailureReason::Refused);
        assert_eq!(refused.exit_code, Some(3));
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let outcome = StepError::failed(FailureReason::Download, "ä".repeat(5000)).into_outcome();
        assert!(outcome.message.len() <= MESSAGE_LIMIT);
    }
}
