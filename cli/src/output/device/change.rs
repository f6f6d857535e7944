//! A fleet as it changes, as printed.

use serde::Serialize;

use super::DeviceView;
use crate::output::{Field, Time, View, counted};

/// "12 devices: 10 online, 2 offline, 1 drifted"
pub(crate) fn fleet(devices: &[DeviceView]) -> String {
    let mut text = counted(devices.len() as u64, "device");
    let mut separator = ": ";
    for state in ["online", "offline", "conflicted", "drifted"] {
        let is_so = |device: &&DeviceView| {
            device.status() == state || (state == "drifted" && device.drifts())
        };
        let count = devices.iter().filter(is_so).count();
        if count > 0 {
            text.push_str(&format!("{separator}{count} {state}"));
            separator = ", ";
        }
    }
    text
}

/// One change of a watched fleet, as one line.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub(crate) enum DeviceChange {
    /// A device as it is now.
    Device { device: Box<DeviceView> },
    /// A device that is deleted, or does not match any more.
    Removed { device_id: String, name: String },
}

impl View for DeviceChange {
    const EMPTY: &'static str = DeviceView::EMPTY;

    fn header(wide: bool) -> Vec<&'static str> {
        DeviceView::header(wide)
    }

    fn row(&self, wide: bool, now: Time) -> Vec<Field> {
        match self {
            Self::Device { device } => device.row(wide, now),
            Self::Removed { name, .. } => vec![Field::plain(name), Field::state("removed")],
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Device { device } => device.name(),
            Self::Removed { name, .. } => name.clone(),
        }
    }
}
