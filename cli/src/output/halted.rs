//! Devices of a halted deployment, as printed.

use std::collections::BTreeMap;

use kernex_proto::v1;
use serde::Serialize;

use super::{
    Field, Time, View, state_word,
    target::{reason_of, state_of},
    wire::Wire,
};

/// One device and what became of it.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub(crate) struct HaltedView {
    device: Wire<v1::HaltedDevice>,
}

impl From<v1::HaltedDevice> for HaltedView {
    fn from(device: v1::HaltedDevice) -> Self {
        Self {
            device: Wire(device),
        }
    }
}

impl HaltedView {
    /// Whether nothing that the halt was to end runs there.
    pub(crate) fn is_acknowledged(&self) -> bool {
        self.device.acknowledged
    }

    /// "stopped", "ended as failed (interrupted)".
    fn sentence(&self) -> String {
        let device = &self.device;
        let (state, reason) = (state_of(device.state), reason_of(device.reason));
        let standing = state_word!(v1::HaltStanding, device.standing, "HALT_STANDING_");
        match (standing.as_str(), reason.as_str()) {
            // An older server does not send it.
            ("", _) if device.acknowledged => "acknowledged".to_owned(),
            ("", _) if device.online => "not answered".to_owned(),
            ("", _) => "offline".to_owned(),
            ("ended", "") => format!("ended as {state}"),
            ("ended", reason) => format!("ended as {state} ({reason})"),
            (standing, _) => standing.replace('_', " "),
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
        let device = &self.device;
        let mut row = vec![
            Field::plain(&device.device_name),
            Field::plain(self.sentence()),
            Field::state(&state_of(device.state)),
            Field::plain(word(device.online)),
        ];
        if wide {
            row.push(Field::plain(&device.device_id));
        }
        row
    }

    fn name(&self) -> String {
        self.device.device_name.clone()
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
