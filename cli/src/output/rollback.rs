//! Rollbacks, as printed.

use kernex_proto::v1;
use serde::Serialize;

use super::{Details, Field, Time, View, deployment::DeploymentView, state_word};

/// What a rollback does with one device.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct StepView {
    device: String,
    device_id: String,
    verdict: String,
    /// What it goes back to; empty unless it does.
    bundle: String,
    message: String,
}

impl From<v1::RollbackStep> for StepView {
    fn from(wire: v1::RollbackStep) -> Self {
        Self {
            verdict: state_word!(v1::RollbackVerdict, wire.verdict, "ROLLBACK_VERDICT_"),
            device: wire.device_name,
            device_id: wire.device_id,
            bundle: wire.bundle,
            message: wire.message,
        }
    }
}

impl StepView {
    pub(crate) fn goes_back(&self) -> bool {
        self.verdict == "go_back"
    }
}

impl View for StepView {
    const EMPTY: &'static str = "This deployment has no targets.";

    fn header(wide: bool) -> Vec<&'static str> {
        let mut titles = vec!["DEVICE", "VERDICT", "TO", "WHY"];
        if wide {
            titles.push("DEVICE ID");
        }
        titles
    }

    fn row(&self, wide: bool, _now: Time) -> Vec<Field> {
        let why = if self.goes_back() { "" } else { &self.message };
        let mut row = vec![
            Field::plain(&self.device),
            Field::state(&self.verdict),
            Field::plain(&self.bundle),
            Field::plain(why),
        ];
        if wide {
            row.push(Field::plain(&self.device_id));
        }
        row
    }

    fn name(&self) -> String {
        self.device.clone()
    }
}

/// A rollback that was committed, for scripts.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct RollbackView {
    #[serde(flatten)]
    deployment: DeploymentView,
    steps: Vec<StepView>,
}

impl RollbackView {
    /// The new deployment with what it does to each device.
    pub(crate) fn new(deployment: v1::Deployment, steps: Vec<StepView>) -> Self {
        Self {
            deployment: deployment.into(),
            steps,
        }
    }
}

impl View for RollbackView {
    const EMPTY: &'static str = DeploymentView::EMPTY;

    fn header(wide: bool) -> Vec<&'static str> {
        DeploymentView::header(wide)
    }

    fn row(&self, wide: bool, now: Time) -> Vec<Field> {
        self.deployment.row(wide, now)
    }

    fn name(&self) -> String {
        self.deployment.name()
    }
}

impl Details for RollbackView {
    fn details(&self, wide: bool, now: Time) -> Vec<(&'static str, Field)> {
        self.deployment.details(wide, now)
    }
}
