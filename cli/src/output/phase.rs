//! Phases of a deployment, as printed.

use kernex_proto::v1::{
    self,
    phase::{MaxFailures, Size},
};
use serde::Serialize;

use super::{Field, Time, View, ago, counts, seconds, wire::Wire};

/// One phase and where it stands.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub(crate) struct PhaseView {
    status: Wire<v1::PhaseStatus>,
    /// Whether its deployment is finished: it is not open any more.
    #[serde(skip)]
    is_over: bool,
}

impl PhaseView {
    pub(super) const fn new(status: v1::PhaseStatus, is_over: bool) -> Self {
        Self {
            status: Wire(status),
            is_over,
        }
    }

    /// `waiting`, `open`, `soaking`, `passed`; or, when the deployment is over, `ended` with it or
    /// `unopened`.
    fn state(&self) -> &'static str {
        let status = &self.status;
        if status.soaked_at.is_some() {
            "passed"
        } else if status.opened_at.is_none() {
            if self.is_over { "unopened" } else { "waiting" }
        } else if self.is_over {
            "ended"
        } else if status.passed_at.is_some() {
            "soaking"
        } else {
            "open"
        }
    }
}

fn share(share: f64) -> String {
    format!("{share}%")
}

/// "5" or "10%", together with the phases before it.
fn size(phase: v1::Phase) -> String {
    match phase.size {
        Some(Size::Count(count)) => count.to_string(),
        Some(Size::Percent(percent)) => share(percent),
        None => String::new(),
    }
}

/// "0" or "2%".
fn max_failures(phase: v1::Phase) -> String {
    match phase.max_failures {
        Some(MaxFailures::MaxFailuresCount(count)) => count.to_string(),
        Some(MaxFailures::MaxFailuresPercent(percent)) => share(percent),
        None => "0".to_owned(),
    }
}

impl View for PhaseView {
    const EMPTY: &'static str = "This deployment has no phases.";

    fn header(wide: bool) -> Vec<&'static str> {
        let mut titles = vec!["PHASE", "SIZE", "STATE", "TARGETS", "OPENED"];
        if wide {
            titles.extend(["SUCCESS", "FAILURES ALLOWED", "SOAK"]);
        }
        titles
    }

    fn row(&self, wide: bool, now: Time) -> Vec<Field> {
        let phase = self.status.phase.unwrap_or_default();
        let opened = Time::from_wire(self.status.opened_at);
        let counts = self.status.counts.unwrap_or_default();
        let mut row = vec![
            Field::plain(self.status.number.to_string()),
            Field::plain(size(phase)),
            Field::plain(self.state()),
            Field::plain(counts::sentence(counts)),
            Field::plain(opened.map_or_else(String::new, |at| ago(Some(at), now))),
        ];
        if wide {
            // Without a share all have to succeed that did not fail within the limit.
            let success = phase.success_percent.map(share);
            row.push(Field::plain(success.unwrap_or_default()));
            row.push(Field::plain(max_failures(phase)));
            row.push(Field::plain(seconds(phase.soak_seconds)));
        }
        row
    }

    fn name(&self) -> String {
        self.status.number.to_string()
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
        .map(|status| PhaseView::new(status, false))
        .collect();
        let text = Printer::plain(Format::Table)
            .render_list(&phases, Time::at(110))
            .unwrap();
        insta::assert_snapshot!(text, @r"
        PHASE  SIZE  STATE    TARGETS            OPENED
        1      1     passed   1 of 1 succeeded   1m40s ago
        2      10%   open     4 of 9 succeeded   50s ago
        3      100%  waiting  0 of 90 succeeded  -
        ");
    }

    #[test]
    fn a_phase_that_never_opens_does_not_wait() {
        let status = v1::PhaseStatus::default();
        assert_eq!(PhaseView::new(status, false).state(), "waiting");
        assert_eq!(PhaseView::new(status, true).state(), "unopened");
    }
}
