//! Deployments, as printed.

use kernex_proto::v1;
use serde::Serialize;

use super::{
    Details, Field, Time, View, ago, counts, order, phase::PhaseView, schedule, short_id,
    state_word, target::TargetView, wire::Wire,
};

#[derive(Debug, Clone, Serialize)]
pub(crate) struct DeploymentView {
    #[serde(flatten)]
    deployment: Wire<v1::Deployment>,
    /// In the order of device names; none where they were not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    targets: Option<Vec<TargetView>>,
}

impl From<v1::Deployment> for DeploymentView {
    fn from(deployment: v1::Deployment) -> Self {
        Self {
            deployment: Wire(deployment),
            targets: None,
        }
    }
}

impl DeploymentView {
    /// Puts the targets beside the deployment, in the order of device names.
    pub(crate) fn with_targets(self, targets: Vec<TargetView>) -> Self {
        Self {
            targets: Some(targets),
            ..self
        }
    }

    /// "2 of 3 succeeded, 1 failed"
    pub(crate) fn sentence(&self) -> String {
        counts::sentence(self.deployment.counts.unwrap_or_default())
    }

    /// Its phases in order; none when everything was opened at once.
    pub(crate) fn phases(&self) -> Vec<PhaseView> {
        let is_finished = self.deployment.state() == v1::DeploymentState::Finished;
        let phases = self.deployment.phases.iter();
        phases
            .map(|phase| PhaseView::new(*phase, is_finished))
            .collect()
    }

    /// "phase 2 of 4, paused: phase 1: 1 of 1 failed"; empty where there is nothing to say beside
    /// the counts.
    pub(crate) fn standing(&self) -> String {
        let deployment = &self.deployment;
        let mut text = self.phase();
        let comma = if text.is_empty() { "" } else { ", " };
        match deployment.state() {
            v1::DeploymentState::Paused => {
                text.push_str(&format!("{comma}paused: {}", deployment.paused_reason));
            }
            v1::DeploymentState::AwaitingApproval => {
                text.push_str(&format!("{comma}awaits approval"));
            }
            v1::DeploymentState::Scheduled => {
                text.push_str(&format!("{comma}waits for its start"));
            }
            _ => {}
        }
        text
    }

    /// "phase 2 of 4"; empty before the first one opens, and where there is only one.
    fn phase(&self) -> String {
        let (phase, all) = (self.deployment.phase, self.deployment.phases.len());
        if phase == 0 || all < 2 {
            return String::new();
        }
        format!("phase {phase} of {all}")
    }

    /// "2 succeeded, 1 failed", beside something that says how many there are.
    pub(crate) fn tally(&self) -> String {
        counts::tally(self.deployment.counts.unwrap_or_default())
    }

    /// Whether its devices may begin now.
    pub(crate) fn is_active(&self) -> bool {
        self.deployment.state() == v1::DeploymentState::Active
    }

    /// How many targets are closed, and how many there are.
    pub(crate) fn closed(&self) -> (u64, u64) {
        counts::closed(self.deployment.counts.unwrap_or_default())
    }

    /// How many targets there are.
    pub(crate) fn targets_in_all(&self) -> u64 {
        self.closed().1
    }

    /// Its result once it is finished, its state before.
    fn state(&self) -> String {
        let result = self.deployment.result;
        let result = state_word!(v1::DeploymentResult, result, "DEPLOYMENT_RESULT_");
        if result.is_empty() {
            state_word!(
                v1::DeploymentState,
                self.deployment.state,
                "DEPLOYMENT_STATE_"
            )
        } else {
            result
        }
    }
}

/// One change of a watched deployment, as one line.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub(crate) enum DeploymentChange {
    /// The deployment itself, or its counts.
    Deployment {
        /// As it is now.
        deployment: Box<DeploymentView>,
    },
    Target {
        /// As it is now.
        target: Box<TargetView>,
    },
}

impl View for DeploymentChange {
    const EMPTY: &'static str = "Nothing changed.";

    fn header(wide: bool) -> Vec<&'static str> {
        TargetView::header(wide)
    }

    fn row(&self, wide: bool, now: Time) -> Vec<Field> {
        match self {
            Self::Deployment { deployment } => deployment.row(wide, now),
            Self::Target { target } => target.row(wide, now),
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Deployment { deployment } => deployment.name(),
            Self::Target { target } => target.name(),
        }
    }
}

impl View for DeploymentView {
    const EMPTY: &'static str =
        "No deployments. Make one: `kernexctl deploy BUNDLE --to SELECTOR`.";

    fn header(wide: bool) -> Vec<&'static str> {
        let mut titles = vec!["ID", "NAME", "BUNDLE", "STATE", "TARGETS", "STARTED"];
        if wide {
            titles.extend(["FINISHED", "BY", "DIGEST"]);
        }
        titles
    }

    fn row(&self, wide: bool, now: Time) -> Vec<Field> {
        let deployment = &self.deployment;
        let id = if wide {
            &deployment.id
        } else {
            short_id(&deployment.id)
        };
        let mut row = vec![
            Field::whole(id),
            Field::plain(&deployment.name),
            Field::plain(&deployment.bundle),
            Field::state(&self.state()),
            Field::plain(self.sentence()),
            Field::plain(ago(Time::from_wire(deployment.created_at), now)),
        ];
        if wide {
            let finished = Time::from_wire(deployment.finished_at);
            row.push(Field::plain(
                finished.map_or_else(String::new, |at| ago(Some(at), now)),
            ));
            row.push(Field::plain(&deployment.created_by));
            row.push(Field::plain(&deployment.digest));
        }
        row
    }

    fn name(&self) -> String {
        self.deployment.id.clone()
    }
}

impl Details for DeploymentView {
    fn details(&self, _wide: bool, now: Time) -> Vec<(&'static str, Field)> {
        let deployment = &self.deployment;
        let started = format!(
            "{} by {}{}",
            ago(Time::from_wire(deployment.created_at), now),
            deployment.created_by,
            order::from(deployment)
        );
        let mut lines = vec![
            ("Id", Field::plain(&deployment.id)),
            ("Bundle", Field::plain(&deployment.bundle)),
            ("Digest", Field::plain(&deployment.digest)),
            ("State", Field::state(&self.state())),
            ("Targets", Field::plain(self.sentence())),
            ("Started", Field::plain(started)),
        ];
        if !deployment.name.is_empty() {
            lines.insert(1, ("Name", Field::plain(&deployment.name)));
        }
        lines.extend(order::details(deployment));
        if !deployment.dynamic_selector.is_empty() {
            let selector = &deployment.dynamic_selector;
            let whom = format!("also devices that match {selector} later");
            lines.push(("Dynamic", Field::plain(whom)));
        }
        if let Some(schedule) = &deployment.schedule {
            lines.extend(schedule::details(schedule, deployment.opens_at, now));
        }
        if let Some(at) = Time::from_wire(deployment.finished_at) {
            lines.push(("Finished", Field::plain(ago(Some(at), now))));
        }
        if !deployment.phases.is_empty() {
            let all = deployment.phases.len();
            let phase = match deployment.phase {
                0 => format!("none of {all} is open yet"),
                phase => format!("{phase} of {all}"),
            };
            lines.push(("Phase", Field::plain(phase)));
        }
        for (title, text) in [
            ("Rolls back", &deployment.rolls_back),
            ("Rolled back by", &deployment.rolled_back_by),
            ("Paused", &deployment.paused_reason),
            ("Why", &deployment.ended_reason),
        ] {
            if !text.is_empty() {
                lines.push((title, Field::plain(text)));
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployment_tells_its_counts() {
        let view = DeploymentView::from(v1::Deployment {
            state: v1::DeploymentState::Finished.into(),
            result: v1::DeploymentResult::Failed.into(),
            counts: Some(v1::TargetCounts {
                total: 3,
                succeeded: 2,
                failed: 1,
                ..Default::default()
            }),
            ..Default::default()
        });
        assert_eq!(view.sentence(), "2 of 3 succeeded, 1 failed");
        assert_eq!(view.state(), "failed");
    }

    #[test]
    fn a_phase_is_told_once_there_is_one_among_others() {
        let standing = |phase, phases: usize, state: v1::DeploymentState| {
            let view = DeploymentView::from(v1::Deployment {
                phase,
                phases: vec![v1::PhaseStatus::default(); phases],
                state: state.into(),
                ..Default::default()
            });
            view.standing()
        };
        use v1::DeploymentState::{Active, Scheduled};
        assert_eq!(standing(0, 1, Scheduled), "waits for its start");
        assert_eq!(standing(1, 1, Active), "");
        assert_eq!(standing(2, 3, Active), "phase 2 of 3");
    }
}
