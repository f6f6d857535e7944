//! Where a device of a halted deployment stands.

use kernex_proto::v1;

use crate::store::HaltedDevice;

impl From<HaltedDevice> for v1::HaltedDevice {
    fn from(device: HaltedDevice) -> Self {
        Self {
            acknowledged: device.is_acknowledged(),
            device_id: device.device.to_string(),
            device_name: device.device_name,
            online: device.online,
            state: v1::AttemptState::from(device.state).into(),
            standing: v1::HaltStanding::from(device.standing).into(),
            reason: device
                .reason
                .map(v1::FailureReason::from)
                .unwrap_or_default()
                .into(),
        }
    }
}
