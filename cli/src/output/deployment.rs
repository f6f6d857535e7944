//! Deployments, as printed.

use kernex_proto::v1;
use serde::Serialize;

use super::{
    Details, Field, Time, View, ago, counts::CountsView, order::OrderView, phase::PhaseView,
    printable, schedule::ScheduleView, short_id, state_word, target::TargetView,
};

#[derive(Debug, Clone, Serialize)]
pub(crate) struct DeploymentView {
    id: String,
    /// What its maker calls it; empty for nothing.
    name: String,
    bundle: String,
    digest: String,
    state: String,
    /// Empty until finished.
    result: String,
    paused_reason: String,
    counts: CountsView,
    created_by: String,
    created_at: Option<Time>,
    finished_at: Option<Time>,
    revision: u64,
    /// The deployment it rolls back; empty when it is no rollback.
    rolls_back: String,
    /// Why it ended itself; empty otherwise.
    ended_reason: String,
    /// The newest deployment that took it back; empty when none did.
    rolled_back_by: String,
    /// Number of the newest open phase; 0 without phases.
    phase: u32,
    phases: Vec<PhaseView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    schedule: Option<ScheduleView>,
    /// Empty for a fixed set of devices.
    #[serde(skip_serializing_if = "String::is_empty")]
    dynamic_selector: String,
    /// What was ordered.
    order: OrderView,
    #[serde(skip_serializing_if = "Option::is_none")]
    targets: Option<Vec<TargetView>>,
}

impl From<v1::Deployment> for DeploymentView {
    fn from(wire: v1::Deployment) -> Self {
        let result = match wire.result() {
            v1::DeploymentResult::Unspecified => String::new(),
            v1::DeploymentResult::Succeeded
            | v1::DeploymentResult::Failed
            | v1::DeploymentResult::Cancelled
            | v1::DeploymentResult::Superseded => {
                state_word!(v1::DeploymentResult, wire.result, "DEPLOYMENT_RESULT_")
            }
        };
        let is_finished = wire.state() == v1::DeploymentState::Finished;
        let order = OrderView::new(&wire);
        let phases = wire.phases.into_iter().map(PhaseView::from);
        Self {
            order,
            phases: if is_finished {
                phases.map(PhaseView::once_finished).collect()
            } else {
                phases.collect()
            },
            state: state_word!(v1::DeploymentState, wire.state, "DEPLOYMENT_STATE_"),
            result,
            counts: wire.counts.map(CountsView::from).unwrap_or_default(),
            created_at: Time::from_wire(wire.created_at),
            finished_at: Time::from_wire(wire.finished_at),
            schedule: wire
                .schedule
                .map(|schedule| ScheduleView::new(schedule, wire.opens_at)),
            dynamic_selector: printable(&wire.dynamic_selector),
            id: wire.id,
            name: wire.name,
            bundle: wire.bundle,
            digest: wire.digest,
            paused_reason: wire.paused_reason,
            created_by: wire.created_by,
            revision: wire.revision,
            rolls_back: wire.rolls_back,
            ended_reason: wire.ended_reason,
            rolled_back_by: wire.rolled_back_by,
            phase: wire.phase,
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
        self.counts.sentence()
    }

    /// Its phases in order; none when everything was opened at once.
    pub(crate) fn phases(&self) -> &[PhaseView] {
        &self.phases
    }

    /// "phase 2 of 4, paused: phase 1: 1 of 1 failed"; empty where there is nothing to say beside
    /// the counts.
    pub(crate) fn standing(&self) -> String {
        let mut text = String::new();
        if !self.phases.is_empty() {
            text = format!("phase {} of {}", self.phase, self.phases.len());
        }
        let comma = if text.is_empty() { "" } else { ", " };
        match self.state.as_str() {
            "paused" => text.push_str(&format!("{comma}paused: {}", self.paused_reason)),
            "awaiting_approval" => text.push_str(&format!("{comma}awaits approval")),
            "scheduled" => text.push_str(&format!("{comma}waits for its start")),
            _ => {}
        }
        text
    }

    /// How many targets are closed, and how many there are.
    pub(crate) fn closed(&self) -> (u64, u64) {
        self.counts.closed()
    }

    /// How many targets there are.
    pub(crate) fn targets_in_all(&self) -> u64 {
        self.counts.closed().1
    }

    fn stands(&self) -> &str {
        if self.result.is_empty() {
            &self.state
        } else {
            &self.result
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
        let mut titles = vec!["ID", "BUNDLE", "STATE", "TARGETS", "STARTED"];
        if wide {
            titles.extend(["FINISHED", "BY", "NAME", "DIGEST"]);
        }
        titles
    }

    fn row(&self, wide: bool, now: Time) -> Vec<Field> {
        let id = if wide { &self.id } else { short_id(&self.id) };
        let mut row = vec![
            Field::plain(id),
            Field::plain(&self.bundle),
            Field::state(self.stands()),
            Field::plain(self.sentence()),
            Field::plain(ago(self.created_at, now)),
        ];
        if wide {
            row.push(Field::plain(
                self.finished_at
                    .map_or_else(String::new, |at| ago(Some(at), now)),
            ));
            row.push(Field::plain(&self.created_by));
            row.push(Field::plain(&self.name));
            row.push(Field::plain(&self.digest));
        }
        row
    }

    fn name(&self) -> String {
        self.id.clone()
    }
}

impl Details for DeploymentView {
    fn details(&self, _wide: bool, now: Time) -> Vec<(&'static str, Field)> {
        let mut lines = vec![
            ("Id", Field::plain(&self.id)),
            ("Bundle", Field::plain(&self.bundle)),
            ("Digest", Field::plain(&self.digest)),
            ("State", Field::state(self.stands())),
            ("Targets", Field::plain(self.sentence())),
            (
                "Started",
                Field::plain(format!(
                    "{} by {}{}",
                    ago(self.created_at, now),
                    self.created_by,
                    self.order.from()
                )),
            ),
        ];
        if !self.name.is_empty() {
            lines.insert(1, ("Name", Field::plain(&self.name)));
        }
        lines.extend(self.order.details());
        if !self.dynamic_selector.is_empty() {
            let whom = format!("also devices that match {} later", self.dynamic_selector);
            lines.push(("Takes", Field::plain(whom)));
        }
        if let Some(schedule) = &self.schedule {
            lines.extend(schedule.details(now));
        }
        if let Some(at) = self.finished_at {
            lines.push(("Finished", Field::plain(ago(Some(at), now))));
        }
        if !self.rolls_back.is_empty() {
            lines.push(("Takes back", Field::plain(&self.rolls_back)));
        }
        if !self.rolled_back_by.is_empty() {
            lines.push(("Taken back by", Field::plain(&self.rolled_back_by)));
        }
        if !self.phases.is_empty() {
            let phase = format!("{} of {}", self.phase, self.phases.len());
            lines.push(("Phase", Field::plain(phase)));
        }
        if !self.paused_reason.is_empty() {
            lines.push(("Paused", Field::plain(&self.paused_reason)));
        }
        if !self.ended_reason.is_empty() {
            lines.push(("Why", Field::plain(&self.ended_reason)));
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
        assert_eq!(view.stands(), "failed");
    }
}
