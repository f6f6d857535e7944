//! Targets of a deployment.

use kernex_proto::v1;

use crate::{
    clock::Timestamp,
    store::{LateOutcome, Target, TargetDeferral},
};

impl From<Target> for v1::Target {
    fn from(target: Target) -> Self {
        let (waits_for, waits_detail) = match target.waiting {
            Some(waiting) => (v1::WaitReason::from(waiting.reason), waiting.detail),
            None => (v1::WaitReason::Unspecified, String::new()),
        };
        let reason = target.reason.map(v1::FailureReason::from);
        Self {
            id: target.id.to_string(),
            deployment_id: target.deployment.to_string(),
            device_id: target.device.to_string(),
            device_name: target.device_name,
            bundle: target.bundle,
            attempt: target.attempt,
            state: match target.deferral {
                Some(_) => v1::AttemptState::Deferred,
                None => v1::AttemptState::from(target.state),
            }
            .into(),
            progress: target.progress.map(|progress| v1::Progress {
                step: v1::Step::from(progress.step).into(),
                bytes_done: progress.bytes_done,
                bytes_total: progress.bytes_total,
                stopped: progress.stopped,
            }),
            reason: reason.unwrap_or_default().into(),
            message: target.message,
            exit_code: target.exit_code,
            output_tail: target.output_tail,
            output_marks: target.output_marks.into_iter().map(Into::into).collect(),
            late_outcome: target.late.is_some(),
            stop_requested: target.stop_requested,
            updated_at: Some(target.updated_at.to_proto()),
            phase: target.phase,
            active_digest: target.active_digest,
            active_version: target.active_version,
            opens_at: target.opens_at.map(Timestamp::to_proto),
            waits_for: waits_for.into(),
            waits_detail,
            late: target.late.map(v1::LateOutcome::from),
            deferral: target.deferral.map(v1::TargetDeferral::from),
        }
    }
}

impl From<LateOutcome> for v1::LateOutcome {
    fn from(late: LateOutcome) -> Self {
        let reason = late.reason.map(v1::FailureReason::from);
        Self {
            state: v1::AttemptState::from(late.state).into(),
            reason: reason.unwrap_or_default().into(),
            message: late.message,
            exit_code: late.exit_code,
            output_tail: late.output_tail,
            at: late.at.map(Timestamp::to_proto),
        }
    }
}

impl From<TargetDeferral> for v1::TargetDeferral {
    fn from(deferral: TargetDeferral) -> Self {
        Self {
            message: deferral.message,
            until: Some(deferral.until.to_proto()),
            run: deferral.run,
        }
    }
}
