//! Configurations, as printed.

use kernex_proto::v1::{self, configuration::Scope};
use serde::Serialize;

use super::{Details, Field, Time, View, ago, device::pairs, wire::Wire};

/// The settings that are set: "heartbeat_interval_ms=5000,log=debug". A value with signs of its
/// own stands in quotes.
fn settings(settings: Option<&v1::AgentSettings>) -> String {
    let Some(settings) = settings else {
        return String::new();
    };
    let number = |value: Option<u64>| value.map(|value| value.to_string());
    let settings = [
        (
            "heartbeat_interval_ms",
            number(settings.heartbeat_interval_ms),
        ),
        (
            "keep_releases",
            number(settings.keep_releases.map(u64::from)),
        ),
        ("log", settings.log.clone()),
        ("max_script_seconds", number(settings.max_script_seconds)),
        ("script_grace_ms", number(settings.script_grace_ms)),
        ("silence_timeout_ms", number(settings.silence_timeout_ms)),
    ];
    let settings = settings.into_iter();
    let said: Vec<String> = settings
        .filter_map(|(name, value)| Some(format!("{name}={}", quoted(value?))))
        .collect();
    said.join(",")
}

fn quoted(value: String) -> String {
    if value.is_empty() || value.contains(['=', ',', ' ', '\'']) {
        return format!("'{value}'");
    }
    value
}

#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub(crate) struct ConfigurationView {
    configuration: Wire<v1::Configuration>,
    /// Name of the device that it is for, where that is known.
    #[serde(skip)]
    device: Option<String>,
}

impl From<v1::Configuration> for ConfigurationView {
    fn from(configuration: v1::Configuration) -> Self {
        Self {
            configuration: Wire(configuration),
            device: None,
        }
    }
}

impl ConfigurationView {
    /// Id of the one device that it is for.
    pub(crate) fn device_id(&self) -> Option<&str> {
        match &self.configuration.scope {
            Some(Scope::DeviceId(id)) => Some(id),
            _ => None,
        }
    }

    /// For a device of this name.
    pub(crate) fn for_device(self, name: String) -> Self {
        Self {
            device: Some(name),
            ..self
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
        let configuration = &self.configuration;
        let scope = match &configuration.scope {
            Some(Scope::DeviceId(scope) | Scope::Selector(scope)) => scope.as_str(),
            None => "",
        };
        let scope = self.device.as_deref().unwrap_or(scope);
        vec![
            Field::plain(&configuration.name),
            Field::plain(scope),
            Field::plain(settings(configuration.settings.as_ref())),
            Field::plain(pairs(&configuration.values)),
            Field::plain(configuration.revision.to_string()),
            Field::plain(ago(Time::from_wire(configuration.updated_at), now)),
        ]
    }

    fn name(&self) -> String {
        self.configuration.name.clone()
    }
}

/// The configuration that applies to one device, and its answer.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct DeviceConfigurationView {
    /// As it was asked for.
    device: String,
    /// What follows from the revisions: "none", "applied", "refused" or "pending".
    state: &'static str,
    #[serde(flatten)]
    answer: Wire<v1::GetDeviceConfigurationResponse>,
}

impl DeviceConfigurationView {
    /// As the server answered about a device.
    pub(crate) fn new(device: String, answer: v1::GetDeviceConfigurationResponse) -> Self {
        Self {
            device,
            state: state(&answer),
            answer: Wire(answer),
        }
    }

    fn wanted(&self) -> v1::Configure {
        self.answer.wanted.clone().unwrap_or_default()
    }

    /// Why the device refused what it is to have; what it refused before that is over.
    fn refusal(&self) -> &str {
        if self.state == "refused" {
            &self.answer.refusal
        } else {
            ""
        }
    }
}

fn state(answer: &v1::GetDeviceConfigurationResponse) -> &'static str {
    let wanted = answer.wanted.as_ref().map_or(0, |wanted| wanted.revision);
    if wanted == 0 {
        "none"
    } else if answer.active_revision == wanted {
        "applied"
    } else if answer.refused_revision == wanted {
        "refused"
    } else {
        "pending"
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
            Field::plain(self.wanted().revision.to_string()),
            Field::plain(self.answer.active_revision.to_string()),
            Field::plain(self.refusal()),
        ]
    }

    fn name(&self) -> String {
        self.device.clone()
    }
}

impl Details for DeviceConfigurationView {
    fn details(&self, _wide: bool, now: Time) -> Vec<(&'static str, Field)> {
        let wanted = self.wanted();
        let active = self.answer.active_revision.to_string();
        let answered = ago(Time::from_wire(self.answer.answered_at), now);
        let mut lines = vec![
            ("Device", Field::plain(&self.device)),
            ("State", Field::state(self.state)),
            ("Settings", Field::plain(settings(wanted.settings.as_ref()))),
            ("Values", Field::plain(pairs(&wanted.values))),
            ("Revision", Field::plain(wanted.revision.to_string())),
            ("Active revision", Field::plain(active)),
            ("Answered", Field::plain(answered)),
        ];
        if !self.refusal().is_empty() {
            lines.push(("Refused", Field::plain(self.refusal())));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_names_its_device_and_quotes_what_has_signs_of_its_own() {
        let view = |log: &str| {
            ConfigurationView::from(v1::Configuration {
                name: "c1".into(),
                scope: Some(Scope::DeviceId("01a2".into())),
                settings: Some(v1::AgentSettings {
                    log: Some(log.into()),
                    ..Default::default()
                }),
                ..Default::default()
            })
        };
        let line = |view: &ConfigurationView| {
            let printer = crate::output::Printer::plain(crate::output::Format::Table);
            printer.render_line(view, Time::at(0)).unwrap()
        };
        assert_eq!(view("info").device_id(), Some("01a2"));
        let named = view("a=debug").for_device("edge-1".into());
        assert!(
            line(&named).starts_with("c1  edge-1  log='a=debug'  "),
            "{}",
            line(&named)
        );
        assert!(line(&view("debug")).starts_with("c1  01a2  log=debug  "));
    }

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
            assert_eq!(view.refusal().is_empty(), state != "refused");
        }
    }
}
