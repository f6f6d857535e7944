//! What an attempt's end means to the server; pure.

use kernex_proto::v1::{AttemptState, FailureReason, Outcome, Step};

use crate::{bundle::fetch::FetchError, bundle::unpack::UnpackError, sandbox::Ended};

/// Most bytes of an outcome's message.
const MESSAGE_LIMIT: usize = 4 * 1024;

/// Why an attempt does not go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Break {
    /// It failed.
    Failed {
        /// Why.
        reason: FailureReason,
        /// In words.
        message: String,
        /// Exit code of the script, when one exited.
        exit_code: Option<i32>,
    },
    /// An operator stopped it.
    Stopped,
    /// The agent is stopping.
    ShuttingDown,
}

impl Break {
    /// A failure without an exit code.
    pub(super) fn failed(reason: FailureReason, message: impl Into<String>) -> Self {
        Self::Failed {
            reason,
            message: message.into(),
            exit_code: None,
        }
    }

    /// Something that should not happen.
    pub(super) fn internal(what: &str, err: &dyn std::error::Error) -> Self {
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
            Self::ShuttingDown => (
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

impl From<FetchError> for Break {
    fn from(err: FetchError) -> Self {
        Self::failed(err.reason(), err.to_string())
    }
}

impl From<UnpackError> for Break {
    fn from(err: UnpackError) -> Self {
        Self::failed(err.reason(), err.to_string())
    }
}

/// What the end of a script means. `stopped`: an operator asked for it.
pub(super) fn after_script(
    step: Step,
    ended: Ended,
    limit_seconds: u64,
    stopped: bool,
) -> Result<(), Break> {
    let what = match step {
        Step::PreHook => "hooks.pre",
        Step::PostHook => "hooks.post",
        _ => "deploy.script",
    };
    match ended {
        Ended::Exited(0) => Ok(()),
        Ended::Exited(code) => Err(Break::Failed {
            reason: match step {
                Step::PreHook => FailureReason::Refused,
                _ => FailureReason::ScriptFailed,
            },
            message: format!("{what} exited with {code}"),
            exit_code: Some(code),
        }),
        Ended::Signalled(signal) => Err(Break::failed(
            FailureReason::ScriptFailed,
            format!("{what} was killed by signal {signal}"),
        )),
        Ended::TimedOut => Err(Break::failed(
            FailureReason::ScriptTimeout,
            format!("{what} outlived its limit of {limit_seconds} s and was killed"),
        )),
        Ended::Interrupted if stopped => Err(Break::Stopped),
        Ended::Interrupted => Err(Break::ShuttingDown),
    }
}

/// An error and its causes in one line.
pub(super) fn chain(err: &dyn std::error::Error) -> String {
    let mut text = err.to_string();
    let mut source = err.source();
    while let Some(err) = source {
        text.push_str(": ");
        text.push_str(&err.to_string());
        source = err.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_of_a_script_has_one_meaning() {
        use FailureReason::{Interrupted, ScriptFailed, ScriptTimeout, Unspecified};
        let table = [
            (
                Ended::Exited(3),
                false,
                AttemptState::Failed,
                ScriptFailed,
                Some(3),
            ),
            // A stop that came too late does not change how the script ended.
            (
                Ended::Exited(3),
                true,
                AttemptState::Failed,
                ScriptFailed,
                Some(3),
            ),
            (
                Ended::Signalled(9),
                false,
                AttemptState::Failed,
                ScriptFailed,
                None,
            ),
            (
                Ended::TimedOut,
                false,
                AttemptState::Failed,
                ScriptTimeout,
                None,
            ),
            (
                Ended::Interrupted,
                true,
                AttemptState::Cancelled,
                Unspecified,
                None,
            ),
            (
                Ended::Interrupted,
                false,
                AttemptState::Failed,
                Interrupted,
                None,
            ),
        ];
        for (ended, stopped, state, reason, code) in table {
            let outcome = after_script(Step::Script, ended, 300, stopped)
                .unwrap_err()
                .into_outcome();
            assert_eq!(
                (outcome.state(), outcome.reason(), outcome.exit_code),
                (state, reason, code),
                "{ended:?}"
            );
        }
        assert_eq!(
            after_script(Step::Script, Ended::Exited(0), 300, true),
            Ok(())
        );
    }

    #[test]
    fn a_pre_hook_that_says_no_refuses() {
        let refused = after_script(Step::PreHook, Ended::Exited(3), 300, false)
            .unwrap_err()
            .into_outcome();
        assert_eq!(refused.reason(), FailureReason::Refused);
        assert_eq!(refused.exit_code, Some(3));
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let outcome = Break::failed(FailureReason::Download, "ä".repeat(5000)).into_outcome();
        assert!(outcome.message.len() <= MESSAGE_LIMIT);
    }
}
