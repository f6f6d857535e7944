//! When the targets of a deployment may begin, as printed.

use kernex_proto::v1;

use super::{Field, Time, ago, seconds};

/// One line for each thing that a schedule says, and when targets may begin next.
pub(super) fn details(
    schedule: &v1::Schedule,
    opens_at: Option<prost_types::Timestamp>,
    now: Time,
) -> Vec<(&'static str, Field)> {
    let when = |time: Time| Field::plain(format!("{time} ({})", ago(Some(time), now)));
    let mut lines = Vec::new();
    if let Some(start) = Time::from_wire(schedule.start_at) {
        lines.push(("Start", when(start)));
    }
    for window in &schedule.windows {
        lines.push(("Window", Field::plain(window)));
    }
    if let Some(opens) = Time::from_wire(opens_at) {
        lines.push(("Opens", when(opens)));
    }
    if schedule.spread_seconds > 0 {
        lines.push(("Spread", Field::plain(seconds(schedule.spread_seconds))));
    }
    if let Some(deadline) = Time::from_wire(schedule.deadline) {
        lines.push(("Deadline", when(deadline)));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_says_when_it_goes_on() {
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let wire = v1::Schedule {
            start_at: at(0),
            windows: vec!["daily 02:00-04:00 UTC".into()],
            spread_seconds: 600,
            deadline: at(90_000),
            deadline_seconds: 0,
        };
        let lines = details(&wire, at(7_200), Time::at(3_600));
        let text: Vec<String> = lines
            .iter()
            .map(|(title, field)| format!("{title}: {}", field.text()))
            .collect();
        insta::assert_snapshot!(text.join("\n"), @r"
        Start: 1970-01-01T00:00:00Z (1h ago)
        Window: daily 02:00-04:00 UTC
        Opens: 1970-01-01T02:00:00Z (in 1h)
        Spread: 10m
        Deadline: 1970-01-02T01:00:00Z (in 1d)
        ");
    }
}
