//! What was deployed to a device, as printed.

use kernex_proto::v1;
use serde::Serialize;

use crate::output::{Field, Time, View, ago, short_id, wire::Wire};

/// One target in a device's history.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub(crate) struct HistoryView {
    entry: Wire<v1::DeviceHistoryEntry>,
}

impl From<v1::DeviceHistoryEntry> for HistoryView {
    fn from(entry: v1::DeviceHistoryEntry) -> Self {
        Self { entry: Wire(entry) }
    }
}

impl HistoryView {
    fn kind(&self) -> &'static str {
        if self.entry.rolls_back.is_empty() {
            "deploy"
        } else {
            "rollback"
        }
    }
}

impl View for HistoryView {
    const EMPTY: &'static str = "Nothing was deployed to this device yet.";

    fn header(wide: bool) -> Vec<&'static str> {
        let mut titles = vec![
            "BUNDLE",
            "KIND",
            "STATE",
            "REASON",
            "AFTER",
            "STARTED",
            "DEPLOYMENT",
        ];
        if wide {
            titles.extend(["CLOSED", "ATTEMPT", "DIGEST", "ROLLS BACK", "MESSAGE"]);
        }
        titles
    }

    fn row(&self, wide: bool, now: Time) -> Vec<Field> {
        let entry = &self.entry;
        let closed = Time::from_wire(entry.closed_at);
        let mut row = vec![
            Field::plain(&entry.bundle),
            Field::plain(self.kind()),
            Field::state(&entry.state),
            Field::plain(&entry.reason),
            Field::plain(&entry.active_version),
            Field::plain(ago(Time::from_wire(entry.created_at), now)),
            Field::whole(if wide {
                &entry.deployment_id
            } else {
                short_id(&entry.deployment_id)
            }),
        ];
        if wide {
            row.push(Field::plain(
                closed.map_or_else(String::new, |at| ago(Some(at), now)),
            ));
            row.push(Field::plain(entry.attempt.to_string()));
            row.push(Field::plain(&entry.digest));
            row.push(Field::plain(&entry.rolls_back));
            row.push(Field::plain(&entry.message));
        }
        row
    }

    fn name(&self) -> String {
        self.entry.deployment_id.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{Format, Printer};

    #[test]
    fn a_history_says_all_of_states_and_ids_in_80_columns() {
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let entry = v1::DeviceHistoryEntry {
            bundle: "tool:1.10.0".into(),
            state: "superseded".into(),
            reason: "script_timeout".into(),
            active_version: "1.9.0".into(),
            created_at: at(0),
            deployment_id: "01a22470-1f3c-7abc-8def-000000000001".into(),
            ..Default::default()
        };
        let views = [HistoryView::from(entry)];
        let text = Printer::narrow(Format::Table, 80)
            .render_list(&views, Time::at(107))
            .unwrap();
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
        for part in ["superseded", "01a22470-1f3c", "1m47s ago"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
