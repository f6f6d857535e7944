//! Configurations, without their revisions, which only the sender knows.

use kernex_proto::v1;

use crate::domain::configuration::{AgentConfiguration, AgentSettings};

impl From<v1::Configure> for AgentConfiguration {
    fn from(wire: v1::Configure) -> Self {
        Self {
            settings: wire.settings.unwrap_or_default().into(),
            values: wire.values.into_iter().collect(),
        }
    }
}

impl From<AgentConfiguration> for v1::Configure {
    fn from(configuration: AgentConfiguration) -> Self {
        Self {
            revision: 0,
            settings: Some(configuration.settings.into()),
            values: configuration.values.into_iter().collect(),
        }
    }
}

// The fields are named one by one: when the contract gets another setting, this does not compile
// without it.

impl From<v1::AgentSettings> for AgentSettings {
    fn from(wire: v1::AgentSettings) -> Self {
        let v1::AgentSettings {
            heartbeat_interval_ms,
            silence_timeout_ms,
            log,
            max_script_seconds,
            script_grace_ms,
            keep_releases,
        } = wire;
        Self {
            heartbeat_interval_ms,
            silence_timeout_ms,
            log,
            max_script_seconds,
            script_grace_ms,
            keep_releases,
        }
    }
}

impl From<AgentSettings> for v1::AgentSettings {
    fn from(settings: AgentSettings) -> Self {
        Self {
            heartbeat_interval_ms: settings.heartbeat_interval_ms,
            silence_timeout_ms: settings.silence_timeout_ms,
            log: settings.log,
            max_script_seconds: settings.max_script_seconds,
            script_grace_ms: settings.script_grace_ms,
            keep_releases: settings.keep_releases,
        }
    }
}
