//! What a rollback does with each device.

use kernex_proto::v1;

use crate::store::RollbackTarget;

impl From<RollbackTarget> for v1::RollbackStep {
    fn from(step: RollbackTarget) -> Self {
        Self {
            device_id: step.device.to_string(),
            device_name: step.device_name,
            verdict: v1::RollbackVerdict::from(step.verdict).into(),
            message: match &step.bundle {
                Some(bundle) => format!("goes back to {bundle}"),
                None => step.verdict.words().to_owned(),
            },
            bundle: step.bundle.unwrap_or_default(),
        }
    }
}
