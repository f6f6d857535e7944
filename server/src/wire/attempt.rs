//! Attempts: states, reasons and steps; what a report says, and what a device is told about it.

use std::time::Duration;

use kernex_proto::v1;

use super::same_words;
use crate::domain::attempt::{
    Deferral, Disposition, Ending, FailureReason, OutputMark, OutputStream, State, Step, StopOrder,
};

same_words!(State, v1::AttemptState:
    Held, Pending, Sent, Accepted, Running, Succeeded, Failed, Cancelled, Expired, Superseded
    and Deferred of Running);

same_words!(FailureReason, v1::FailureReason:
    Download, DigestMismatch, UnsafeArchive, ManifestMissing, ManifestInvalid, Requirements,
    Refused, DiskFull, ScriptFailed, ScriptTimeout, HealthCheck, RollbackFailed, Interrupted,
    JournalLost, Unsupported, Internal, Penalised);

same_words!(Step, v1::Step:
    Download, Verify, Unpack, PreHook, Script, Activate, PostHook, Health, Rollback);

impl From<&v1::OutputMark> for OutputMark {
    fn from(wire: &v1::OutputMark) -> Self {
        Self {
            start: wire.start,
            step: Step::try_from(wire.step()).ok(),
            stream: match wire.stream() {
                v1::OutputStream::Unspecified => OutputStream::Mixed,
                v1::OutputStream::Stdout => OutputStream::Stdout,
                v1::OutputStream::Stderr => OutputStream::Stderr,
            },
        }
    }
}

impl From<OutputMark> for v1::OutputMark {
    fn from(mark: OutputMark) -> Self {
        let stream = match mark.stream {
            OutputStream::Mixed => v1::OutputStream::Unspecified,
            OutputStream::Stdout => v1::OutputStream::Stdout,
            OutputStream::Stderr => v1::OutputStream::Stderr,
        };
        let step = mark.step.map(v1::Step::from).unwrap_or_default();
        Self {
            start: mark.start,
            step: step.into(),
            stream: stream.into(),
        }
    }
}

/// Reads an outcome. The error says why it makes no sense.
impl TryFrom<&v1::Outcome> for Ending {
    type Error = &'static str;

    fn try_from(outcome: &v1::Outcome) -> Result<Self, Self::Error> {
        let reason = FailureReason::try_from(outcome.reason()).ok();
        match (State::try_from(outcome.state()).ok(), reason) {
            (Some(State::Succeeded), None) => Ok(Self::Succeeded),
            (Some(State::Cancelled), _) => Ok(Self::Cancelled),
            (Some(State::Failed), Some(reason)) => Ok(Self::Failed(reason)),
            // A newer agent may know a reason that this server does not.
            (Some(State::Failed), None) if outcome.reason != 0 => {
                Ok(Self::Failed(FailureReason::Internal))
            }
            (Some(State::Failed), None) => Err("a failure without a reason"),
            (Some(State::Succeeded), Some(_)) => Err("a success with a failure reason"),
            _ => Err("the outcome's state is none an attempt can end in"),
        }
    }
}

impl From<&v1::Deferred> for Deferral {
    fn from(wire: &v1::Deferred) -> Self {
        Self {
            run: wire.run,
            pause: Duration::from_millis(wire.retry_after_ms),
        }
    }
}

impl From<StopOrder> for v1::Stop {
    fn from(order: StopOrder) -> Self {
        Self {
            going_back: order.going_back,
            overdue: order.overdue,
        }
    }
}

impl From<Disposition> for v1::Disposition {
    fn from(disposition: Disposition) -> Self {
        match disposition {
            Disposition::Applied => Self::Applied,
            Disposition::Late => Self::Late,
            Disposition::Duplicate => Self::Duplicate,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_that_make_no_sense_are_refused() {
        let outcome = |state: v1::AttemptState, reason: v1::FailureReason| v1::Outcome {
            state: state.into(),
            reason: reason.into(),
            ..Default::default()
        };
        use v1::{AttemptState as S, FailureReason as R};
        for (state, reason) in [
            (S::Unspecified, R::Unspecified),
            (S::Running, R::Unspecified),
            (S::Expired, R::Unspecified),
            (S::Failed, R::Unspecified),
            (S::Succeeded, R::Download),
        ] {
            assert!(
                Ending::try_from(&outcome(state, reason)).is_err(),
                "{state:?}"
            );
        }
        assert_eq!(
            Ending::try_from(&outcome(S::Failed, R::DiskFull)),
            Ok(Ending::Failed(FailureReason::DiskFull))
        );
        let newer = v1::Outcome {
            state: S::Failed.into(),
            reason: 9999,
            ..Default::default()
        };
        assert_eq!(
            Ending::try_from(&newer),
            Ok(Ending::Failed(FailureReason::Internal))
        );
    }
}
