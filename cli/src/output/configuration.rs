//! Configurations, as printed.

use std::collections::BTreeMap;

use kernex_proto::v1::{self, configuration::Scope};
use serde::Serialize;

use super::{Details, Field, Time, View, ago};

/// Settings by name, without those that are not set.
fn settings_of(settings: Option<v1::AgentSettings>) -> BTreeMap<&'static str, String> {
    let settings = settings.unwrap_or_default();
    let number = |value: Option<u64>| value.map(|value| value.to_string());
    [
        (
            "heartbeat_interval_ms",
            number(settings.heartbeat_interval_ms),
        ),
        ("silence_timeout_ms", number(settings.silence_timeout_ms)),
        ("log", settings.log),
        ("max_script_seconds", number(settings.max_script_seconds)),
        ("script_grace_ms", number(settings.script_grace_ms)),
        (
            "keep_releases",
            number(settings.keep_releases.map(u64::from)),
        ),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
    .collect()
}

fn pairs<K: AsRef<str>>(map: &BTreeMap<K, String>) -> String {
    let pairs: Vec<String> = map
        .iter()
        .map(|(name, value)| format!("{}={value}", name.as_ref()))
        .collect();
    pairs.join(",")
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct ConfigurationView {
    name: String,
    device_id: Option<String>,
    selector: Option<String>,
    settings: BTreeMap<&'static str, String>,
    values: BTreeMap<String, String>,
    revision: u64,
    updated_at: Option<Time>,
}

impl From<v1::Configuration> for ConfigurationView {
    fn from(wire: v1::Configuration) -> Self {
        let (device_id, selector) = match wire.scope {
            Some(Scope::DeviceId(device)) => (Some(device), None),
            Some(Scope::Selector(selector)) => (None, Some(selector)),
            None => (None, None),
        };
        Self {
            name: wire.name,
            device_id,
            selector,
            settings: settings_of(wire.settings),
            values: wire.values.into_iter().collect(),
            revision: wire.revision,
            updated_at: Time::from_wire(wire.updated_at),
        }
    }
}

impl View for ConfigurationView {
    const EMPTY: &'static str =
        "No configurations. Make one: `kernexctl config set NAME --to SELECTOR ...`.";

    fn header(_wide: bool) -> Vec<&'static str> {
        vec!["NAME", "FOR", "SETTINGS", "VALUES", "REVISION", "CHANGED"]
    }

    fn row(&self, _wide: bool, now: Time) -> Vec<Field> {
        let scope = self.device_id.as_ref().or(self.selector.as_ref());
        vec![
            Field::plain(&self.name),
            Field::plain(scope.map_or("-", String::as_str)),
            Field::plain(pairs(&self.settings)),
            Field::plain(pairs(&self.values)),
            Field::plain(self.revision.to_string()),
            Field::plain(ago(self.updated_at, now)),
        ]
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

/// The configuration that applies to one device, and its answer.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct DeviceConfigurationView {
    device: String,
    state: &'static str,
    settings: BTreeMap<&'static str, String>,
    values: BTreeMap<String, String>,
    wanted_revision: u64,
    active_revision: u64,
    refusal: String,
    answered_at: Option<Time>,
}

impl DeviceConfigurationView {
    /// As the server answered about a device.
    pub(crate) fn new(device: String, wire: v1::GetDeviceConfigurationResponse) -> Self {
        let wanted = wire.wanted.unwrap_or_default();
        let state = if wanted.revision == 0 {
            "none"
        } else if wire.active_revision == wanted.revision {
            "applied"
        } else if wire.refused_revision == wanted.revision {
            "refused"
        } else {
            "pending"
        };
        Self {
            device,
            state,
            settings: settings_of(wanted.settings),
            values: wanted.values.into_iter().collect(),
            wanted_revision: wanted.revision,
            active_revision: wire.active_revision,
            refusal: if state == "refused" {
                wire.refusal
            } else {
                String::new()
            },
            answered_at: Time::from_wire(wire.answered_at),
        }
    }
}

impl View for DeviceConfigurationView {
    const EMPTY: &'static str = "No configuration applies to this device.";

    fn header(_wide: bool) -> Vec<&'static str> {
        vec!["DEVICE", "STATE", "WANTED", "ACTIVE", "REFUSAL"]
    }

    fn row(&self, _wide: bool, _now: Time) -> Vec<Field> {
        vec![
            Field::plain(&self.device),
            Field::state(self.state),
            Field::plain(self.wanted_revision.to_string()),
            Field::plain(self.active_revision.to_string()),
            Field::plain(&self.refusal),
        ]
    }

    fn name(&self) -> String {
        self.device.clone()
    }
}

impl Details for DeviceConfigurationView {
    fn details(&self, _wide: bool, now: Time) -> Vec<(&'static str, Field)> {
        let mut lines = vec![
            ("Device", Field::plain(&self.device)),
            ("State", Field::state(self.state)),
            ("Settings", Field::plain(pairs(&self.settings))),
            ("Values", Field::plain(pairs(&self.values))),
            ("Revision", Field::plain(self.wanted_revision.to_string())),
            (
                "Active revision",
                Field::plain(self.active_revision.to_string()),
            ),
            ("Answered", Field::plain(ago(self.answered_at, now))),
        ];
        if !self.refusal.is_empty() {
            lines.push(("Refused", Field::plain(&self.refusal)));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_configuration_stands_follows_from_the_revisions() {
        for (wanted, active, refused, state) in [
            (0, 0, 0, "none"),
            (3, 2, 0, "pending"),
            (3, 3, 2, "applied"),
            (3, 2, 3, "refused"),
        ] {
            let view = DeviceConfigurationView::new(
                "edge-1".into(),
                v1::GetDeviceConfigurationResponse {
                    wanted: Some(v1::Configure {
                        revision: wanted,
                        ..v1::Configure::default()
                    }),
                    active_revision: active,
                    refused_revision: refused,
                    refusal: "no".into(),
                    ..v1::GetDeviceConfigurationResponse::default()
                },
            );
            assert_eq!(view.state, state);
            assert_eq!(view.refusal.is_empty(), state != "refused");
        }
    }
}
