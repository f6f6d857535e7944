//! Rollbacks, as printed.

use kernex_proto::v1;
use serde::Serialize;

use super::{Details, Field, Time, View, deployment::DeploymentView, state_word, wire::Wire};

/// What a rollback does with one device.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub(crate) struct StepView {
    step: Wire<v1::RollbackStep>,
}

impl From<v1::RollbackStep> for StepView {
    fn from(step: v1::RollbackStep) -> Self {
        Self { step: Wire(step) }
    }
}

impl StepView {
    pub(crate) fn goes_back(&self) -> bool {
        self.step.verdict() == v1::RollbackVerdict::GoBack
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
        let step = &self.step;
        let verdict = state_word!(v1::RollbackVerdict, step.verdict, "ROLLBACK_VERDICT_");
        let why = if self.goes_back() { "" } else { &step.message };
        let mut row = vec![
            Field::plain(&step.device_name),
            Field::state(&verdict),
            Field::plain(&step.bundle),
            Field::plain(why),
        ];
        if wide {
            row.push(Field::plain(&step.device_id));
        }
        row
    }

    fn name(&self) -> String {
        self.step.device_name.clone()
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
