//! Phases of a deployment, as printed.

use kernex_proto::v1::{
    self,
    phase::{MaxFailures, Size},
};
use serde::Serialize;

use super::{Field, Time, View, ago, counts::CountsView, seconds};

/// One phase and where it stands.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct PhaseView {
    number: u32,
    /// "5" or "10%", together with the phases before it.
    size: String,
    /// "95%"; empty means all that did not fail within the limit.
    success: String,
    /// "0" or "2%".
    max_failures: String,
    soak_seconds: u64,
    /// `waiting`, `open`, `soaking`, `passed`, or `ended` with the deployment.
    state: &'static str,
    counts: CountsView,
    opened_at: Option<Time>,
    passed_at: Option<Time>,
    soaked_at: Option<Time>,
}

impl From<v1::PhaseStatus> for PhaseView {
    fn from(wire: v1::PhaseStatus) -> Self {
        let phase = wire.phase.unwrap_or_default();
        let share = |share: f64| format!("{share}%");
        let state = if wire.soaked_at.is_some() {
            "passed"
        } else if wire.passed_at.is_some() {
            "soaking"
        } else if wire.opened_at.is_some() {
            "open"
        } else {
            "waiting"
        };
        Self {
            number: wire.number,
            size: match phase.size {
                Some(Size::Count(count)) => count.to_string(),
                Some(Size::Percent(percent)) => share(percent),
                None => String::new(),
            },
            success: phase.success_percent.map(share).unwrap_or_default(),
            max_failures: match phase.max_failures {
                Some(MaxFailures::MaxFailuresCount(count)) => count.to_string(),
                Some(MaxFailures::MaxFailuresPercent(percent)) => share(percent),
                None => "0".to_owned(),
            },
            soak_seconds: phase.soak_seconds,
            state,
            counts: wire.counts.map(CountsView::from).unwrap_or_default(),
            opened_at: Time::from_wire(wire.opened_at),
            passed_at: Time::from_wire(wire.passed_at),
            soaked_at: Time::from_wire(wire.soaked_at),
        }
    }
}

impl PhaseView {
    /// The phase after its deployment finished: it is not open any more.
    pub(super) fn once_finished(mut self) -> Self {
        if matches!(self.state, "open" | "soaking") {
            self.state = "ended";
        }
        self
    }
}

impl View for PhaseView {
    const EMPTY: &'static str = "This deployment has no phases.";

    fn header(wide: bool) -> Vec<&'static str> {
        let mut titles = vec!["PHASE", "UP TO", "STATE", "TARGETS", "OPENED"];
        if wide {
            titles.extend(["SUCCESS", "FAILURES ALLOWED", "SOAK"]);
        }
        titles
    }

    fn row(&self, wide: bool, now: Time) -> Vec<Field> {
        let mut row = vec![
            Field::plain(self.number.to_string()),
            Field::plain(&self.size),
            Field::plain(self.state),
            Field::plain(self.counts.sentence()),
            Field::plain(
                self.opened_at
                    .map_or_else(String::new, |at| ago(Some(at), now)),
            ),
        ];
        if wide {
            row.push(Field::plain(&self.success));
            row.push(Field::plain(&self.max_failures));
            row.push(Field::plain(seconds(self.soak_seconds)));
        }
        row
    }

    fn name(&self) -> String {
        self.number.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Format, Printer};
    use super::*;

    #[test]
    fn phases_say_how_far_they_are() {
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let phase = |number, size| v1::PhaseStatus {
            number,
            phase: Some(v1::Phase {
                size: Some(size),
                ..v1::Phase::default()
            }),
            ..v1::PhaseStatus::default()
        };
        let counts = |total, succeeded| v1::TargetCounts {
            total,
            succeeded,
            ..v1::TargetCounts::default()
        };
        let phases: Vec<PhaseView> = [
            v1::PhaseStatus {
                counts: Some(counts(1, 1)),
                opened_at: at(10),
                passed_at: at(50),
                soaked_at: at(60),
                ..phase(1, Size::Count(1))
            },
            v1::PhaseStatus {
                counts: Some(counts(9, 4)),
                opened_at: at(60),
                ..phase(2, Size::Percent(10.0))
            },
            v1::PhaseStatus {
                counts: Some(counts(90, 0)),
                ..phase(3, Size::Percent(100.0))
            },
        ]
        .into_iter()
        .map(PhaseView::from)
        .collect();
        let text = Printer::plain(Format::Table)
            .render_list(&phases, Time::at(110))
            .unwrap();
        insta::assert_snapshot!(text, @r"
        PHASE  UP TO  STATE    TARGETS            OPENED
        1      1      passed   1 of 1 succeeded   1m40s ago
        2      10%    open     4 of 9 succeeded   50s ago
        3      100%   waiting  0 of 90 succeeded  -
        ");
    }
}
