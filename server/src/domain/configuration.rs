//! Merges the configurations that apply to a device into the one that is sent. Pure.

use std::collections::BTreeMap;

pub const MAX_VALUES: usize = 100;
/// Longest value, in bytes.
pub const MAX_VALUE: usize = 8 * 1024;

/// Settings of an agent. `None` leaves one as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AgentSettings {
    /// Time between two heartbeats in milliseconds.
    pub heartbeat_interval_ms: Option<u64>,
    /// Milliseconds without a message from the server after which the agent connects anew.
    pub silence_timeout_ms: Option<u64>,
    /// The filter of its log, such as `info` or `kernex_agent=debug`.
    pub log: Option<String>,
    /// Longest time of a script in seconds.
    pub max_script_seconds: Option<u64>,
    /// Milliseconds between asking a script to end and killing it.
    pub script_grace_ms: Option<u64>,
    /// Releases of a bundle name that are kept beside the current one.
    pub keep_releases: Option<u32>,
}

/// One configuration, or several that were merged.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AgentConfiguration {
    pub settings: AgentSettings,
    /// Values for the environment of scripts, by name. An empty value removes an earlier one.
    pub values: BTreeMap<String, String>,
}

/// Merges configurations field by field. Later ones win.
#[must_use]
pub fn merge<'a>(
    configurations: impl IntoIterator<Item = &'a AgentConfiguration>,
) -> AgentConfiguration {
    let mut merged = AgentConfiguration::default();
    for configuration in configurations {
        merged.settings = over(&configuration.settings, &merged.settings);
        for (name, value) in &configuration.values {
            if value.is_empty() {
                merged.values.remove(name);
            } else {
                merged.values.insert(name.clone(), value.clone());
            }
        }
    }
    merged
}

fn over(later: &AgentSettings, earlier: &AgentSettings) -> AgentSettings {
    AgentSettings {
        heartbeat_interval_ms: later
            .heartbeat_interval_ms
            .or(earlier.heartbeat_interval_ms),
        silence_timeout_ms: later.silence_timeout_ms.or(earlier.silence_timeout_ms),
        log: later.log.clone().or_else(|| earlier.log.clone()),
        max_script_seconds: later.max_script_seconds.or(earlier.max_script_seconds),
        script_grace_ms: later.script_grace_ms.or(earlier.script_grace_ms),
        keep_releases: later.keep_releases.or(earlier.keep_releases),
    }
}

/// Checks values. The error says why they cannot be stored. Agents check settings, because a newer
/// agent may allow more; only what is no log filter is refused by the server already.
pub fn check_values<'a>(
    values: impl ExactSizeIterator<Item = (&'a String, &'a String)>,
) -> Result<(), String> {
    if values.len() > MAX_VALUES {
        return Err(format!("a configuration has at most {MAX_VALUES} values"));
    }
    for (name, value) in values {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if name.is_empty() || name.len() > 64 || !name.bytes().all(fits) {
            return Err(format!(
                "the name `{name}` has to be 1 to 64 of A-Z a-z 0-9 _"
            ));
        }
        if value.len() > MAX_VALUE || value.contains('\0') {
            return Err(format!(
                "the value of `{name}` has to be at most {MAX_VALUE} bytes without NUL"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configure(
        heartbeat: Option<u64>,
        log: Option<&str>,
        values: &[(&str, &str)],
    ) -> AgentConfiguration {
        AgentConfiguration {
            settings: AgentSettings {
                heartbeat_interval_ms: heartbeat,
                log: log.map(str::to_owned),
                ..AgentSettings::default()
            },
            values: values
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    #[test]
    fn the_later_wins_field_by_field() {
        let all = configure(Some(1000), Some("info"), &[("A", "1"), ("B", "1")]);
        let site = configure(Some(500), None, &[("B", "2"), ("C", "2")]);
        let device = configure(None, None, &[("A", "")]);
        let merged = merge([&all, &site, &device]);
        let wanted = configure(Some(500), Some("info"), &[("B", "2"), ("C", "2")]);
        assert_eq!(merged, wanted);
        assert_eq!(merge([]), AgentConfiguration::default());
    }

    #[test]
    fn values_that_no_environment_could_hold_are_refused() {
        for (name, value, fits) in [
            ("SITE", "berlin", true),
            ("a_1", "", true),
            ("", "x", false),
            ("A-B", "x", false),
            ("A", "\0", false),
        ] {
            let values = [(name.to_owned(), value.to_owned())];
            let checked = check_values(values.iter().map(|(name, value)| (name, value)));
            assert_eq!(checked.is_ok(), fits, "{name}");
        }
    }
}
