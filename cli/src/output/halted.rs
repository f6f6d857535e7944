//! Devices of a halted deployment, as printed.

use kernex_proto::v1;
use serde::Serialize;

use super::{Field, Time, View, state_word};

/// One device and whether it has answered.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct HaltedView {
    device: String,
    device_id: String,
    acknowledged: bool,
    online: bool,
    state: String,
}

impl From<v1::HaltedDevice> for HaltedView {
    fn from(wire: v1::HaltedDevice) -> Self {
        Self {
            state: state_word!(v1::AttemptState, wire.state, "ATTEMPT_STATE_"),
            device: wire.device_name,
            device_id: wire.device_id,
            acknowledged: wire.acknowledged,
            online: wire.online,
        }
    }
}

impl View for HaltedView {
    const EMPTY: &'static str = "No device had anything to stop.";

    fn header(wide: bool) -> Vec<&'static str> {
        let mut titles = vec!["DEVICE", "ACKNOWLEDGED", "CONNECTED", "STATE"];
        if wide {
            titles.push("DEVICE ID");
        }
        titles
    }

    fn row(&self, wide: bool, _now: Time) -> Vec<Field> {
        let word = |yes| if yes { "yes" } else { "no" };
        let mut row = vec![
            Field::plain(&self.device),
            Field::plain(word(self.acknowledged)),
            Field::plain(word(self.online)),
            Field::state(&self.state),
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
