//! Configurations of agents, and what one device has said of its own.

use kernex_proto::v1::{self, configuration::Scope as WireScope};
use tonic::Status;

use super::selector::any_selector;
use crate::{
    clock::Timestamp,
    error::invalid,
    store::{Configuration, ConfigurationScope, DeviceConfiguration},
};

/// Who a configuration is for.
pub(in crate::api) fn scope(wire: Option<WireScope>) -> Result<ConfigurationScope, Status> {
    match wire {
        Some(WireScope::DeviceId(device)) if !device.is_empty() => {
            Ok(ConfigurationScope::Device(device))
        }
        Some(WireScope::Selector(text)) if !text.trim().is_empty() => {
            any_selector("configuration.selector", &text).map(ConfigurationScope::Selector)
        }
        _ => Err(invalid(
            "configuration.scope",
            "name a device or a selector; `*` means every device",
        )),
    }
}

impl From<Configuration> for v1::Configuration {
    fn from(row: Configuration) -> Self {
        Self {
            name: row.name,
            scope: Some(match row.scope {
                ConfigurationScope::Device(device) => WireScope::DeviceId(device),
                ConfigurationScope::Selector(selector) => WireScope::Selector(selector.to_string()),
            }),
            settings: row.configure.settings,
            values: row.configure.values,
            revision: row.revision,
            updated_at: Some(row.updated_at.to_proto()),
        }
    }
}

impl From<DeviceConfiguration> for v1::GetDeviceConfigurationResponse {
    fn from(known: DeviceConfiguration) -> Self {
        Self {
            wanted: Some(known.wanted),
            active_revision: known.active_revision,
            refused_revision: known.refused_revision,
            refusal: known.refusal,
            answered_at: known.answered_at.map(Timestamp::to_proto),
        }
    }
}
