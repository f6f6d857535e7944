//! Devices of a halted deployment, as printed.

use std::collections::BTreeMap;

use kernex_proto::v1;
use serde::Serialize;

use super::{Field, Time, View, state_word};

/// One device and what became of it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct HaltedView {
    device: String,
    device_id: String,
    acknowledged: bool,
    online: bool,
    standing: String,
    state: String,
    /// Empty unless failed.
    reason: String,
}

impl From<v1::HaltedDevice> for HaltedView {
    fn from(wire: v1::HaltedDevice) -> Self {
        let word = state_word!(v1::HaltStanding, wire.standing, "HALT_STANDING_");
        let standing = match word.as_str() {
            // An older server does not send it.
            "unspecified" if wire.acknowledged => "acknowledged",
            "unspecified" if wire.online => "not_answered",
            "unspecified" => "offline",
            known => known,
        };
        let reason = state_word!(v1::FailureReason, wire.reason, "FAILURE_REASON_");
        Self {
            standing: standing.to_owned(),
            state: state_word!(v1::AttemptState, wire.state, "ATTEMPT_STATE_"),
            reason: if reason == "unspecified" {
                String::new()
            } else {
                reason
            },
            device: wire.device_name,
            device_id: wire.device_id,
            acknowledged: wire.acknowledged,
            online: wire.online,
        }
    }
}

impl HaltedView {
    /// Whether nothing that the halt was to end runs there.
    pub(crate) fn is_acknowledged(&self) -> bool {
        self.acknowledged
    }

    /// "stopped", "ended as failed (interrupted)".
    fn sentence(&self) -> String {
        let standing = self.standing.replace('_', " ");
        match (self.standing.as_str(), self.reason.as_str()) {
            ("ended", "") => format!("ended as {}", self.state),
            ("ended", reason) => format!("ended as {} ({reason})", self.state),
            _ => standing,
        }
    }
}

/// How many devices have which standing, the most frequent first: "2 stopped, 1 ended as failed
/// (interrupted)".
pub(crate) fn summary(devices: &[HaltedView]) -> String {
    let mut counts = BTreeMap::<String, usize>::new();
    for device in devices {
        *counts.entry(device.sentence()).or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let counts: Vec<String> = counts
        .into_iter()
        .map(|(what, count)| format!("{count} {what}"))
        .collect();
    counts.join(", ")
}

impl View for HaltedView {
    const EMPTY: &'static str = "No device had anything to stop.";

    fn header(wide: bool) -> Vec<&'static str> {
        let mut titles = vec!["DEVICE", "STANDING", "STATE", "CONNECTED"];
        if wide {
            titles.push("DEVICE ID");
        }
        titles
    }

    fn row(&self, wide: bool, _now: Time) -> Vec<Field> {
        let word = |yes| if yes { "yes" } else { "no" };
        let mut row = vec![
            Field::plain(&self.device),
            Field::plain(self.sentence()),
            Field::state(&self.state),
            Field::plain(word(self.online)),
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

#[cfg(test)]
mod tests {
    use super::super::{Format, Printer};
    use super::*;

    #[test]
    fn each_device_has_a_line_and_all_of_them_a_total() {
        let device =
            |name: &str, standing: v1::HaltStanding, state: v1::AttemptState| v1::HaltedDevice {
                device_name: name.into(),
                standing: standing.into(),
                state: state.into(),
                ..Default::default()
            };
        let devices: Vec<HaltedView> = [
            device(
                "edge-1",
                v1::HaltStanding::Stopped,
                v1::AttemptState::Cancelled,
            ),
            device(
                "edge-2",
                v1::HaltStanding::GoingBack,
                v1::AttemptState::Running,
            ),
            v1::HaltedDevice {
                reason: v1::FailureReason::Interrupted.into(),
                ..device("edge-3", v1::HaltStanding::Ended, v1::AttemptState::Failed)
            },
            device(
                "edge-4",
                v1::HaltStanding::Stopped,
                v1::AttemptState::Cancelled,
            ),
            // An older server.
            device(
                "edge-5",
                v1::HaltStanding::Unspecified,
                v1::AttemptState::Running,
            ),
        ]
        .map(HaltedView::from)
        .into();
        let text = Printer::plain(Format::Table)
            .render_list(&devices, Time::at(0))
            .unwrap();
        insta::assert_snapshot!(text, @r"
        DEVICE  STANDING                       STATE      CONNECTED
        edge-1  stopped                        cancelled  no
        edge-2  going back                     running    no
        edge-3  ended as failed (interrupted)  failed     no
        edge-4  stopped                        cancelled  no
        edge-5  offline                        running    no
        ");
        assert_eq!(
            summary(&devices),
            "2 stopped, 1 ended as failed (interrupted), 1 going back, 1 offline"
        );
    }
}
