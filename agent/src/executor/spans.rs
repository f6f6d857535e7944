//! Spans of an attempt and of its steps. A span that fails has the reason, and the exit code where
//! a script ended by itself.

use kernex_proto::{v1, words};
use tracing::{Instrument as _, Span};

use super::outcome::StepError;

/// A span that can be marked as failed.
macro_rules! step_span {
    ($name:literal $(, $($fields:tt)+)?) => {
        tracing::info_span!(
            $name,
            otel.status_code = tracing::field::Empty,
            otel.status_description = tracing::field::Empty,
            "error.type" = tracing::field::Empty,
            process.exit.code = tracing::field::Empty
            $(, $($fields)+)?
        )
    };
}
pub(super) use step_span;

/// Runs a step in its span, and marks the span when the step fails.
pub(super) async fn observed<T>(
    span: Span,
    step: impl Future<Output = Result<T, StepError>>,
) -> Result<T, StepError> {
    let done = step.instrument(span.clone()).await;
    match &done {
        Err(StepError::Failed {
            reason,
            message,
            exit_code,
        }) => mark_failed(&span, *reason, message, *exit_code),
        Err(StepError::Stopped) => {
            span.record("otel.status_description", "stopped");
        }
        // It goes on later.
        Err(StepError::ShuttingDown | StepError::Deferred | StepError::Restarting) | Ok(_) => {}
    }
    done
}

/// Marks a span by the outcome of its attempt.
pub(super) fn mark_outcome(span: &Span, outcome: &v1::Outcome) {
    if outcome.state() == v1::AttemptState::Failed {
        mark_failed(span, outcome.reason(), &outcome.message, outcome.exit_code);
    } else if let Some(code) = outcome.exit_code {
        span.record("process.exit.code", code);
    }
}

fn mark_failed(span: &Span, reason: v1::FailureReason, why: &str, exit_code: Option<i32>) {
    span.record("otel.status_code", "ERROR");
    span.record("otel.status_description", why);
    if let Some(reason) = words::reason(reason) {
        span.record("error.type", reason.as_str());
    }
    if let Some(code) = exit_code {
        span.record("process.exit.code", code);
    }
}
