//! The settings in force: those the agent was started with, and over them the newest configuration
//! of the server.

use std::{collections::BTreeMap, time::Duration};

use kernex_proto::{manifest::DEFAULT_TIMEOUT_SECONDS, telemetry, v1};

use crate::config::Config;

const MAX_VALUES: usize = 100;
/// Longest free-form value, in bytes.
const MAX_VALUE: usize = 8 * 1024;

/// How long a script that an operator stops may tidy up, when the configuration does not say.
const STOP_GRACE: Duration = Duration::from_millis(500);

/// Most a script may take when neither the device nor the server says.
const MAX_SCRIPT_TIME: Duration = Duration::from_secs(DEFAULT_TIMEOUT_SECONDS);
/// Releases kept beside the current one when neither the device nor the server says.
const KEEP_RELEASES: usize = 2;

/// The settings in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Revision of the server's configuration; 0 when there is none.
    pub(crate) revision: u64,
    /// Time between heartbeats; `None` takes the server's.
    pub(crate) heartbeat: Option<Duration>,
    /// Silence after which a session counts as dead; `None` follows from the heartbeat.
    pub(crate) silence: Option<Duration>,
    /// What to log; `None` is as started.
    pub(crate) log: Option<String>,
    /// Most a script may take.
    pub(crate) max_script_time: Duration,
    /// Time between SIGTERM and SIGKILL.
    pub(crate) script_grace: Duration,
    /// The same when an operator stops a script: short unless the configuration says otherwise,
    /// because an operator waits.
    pub(crate) stop_grace: Duration,
    /// Releases kept beside the current one.
    pub(crate) keep_releases: usize,
    /// Free-form values for scripts.
    pub(crate) values: BTreeMap<String, String>,
}

impl Settings {
    /// As the agent was started.
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            revision: 0,
            heartbeat: None,
            silence: None,
            log: None,
            max_script_time: config.max_script_time.unwrap_or(MAX_SCRIPT_TIME),
            script_grace: config.script_grace,
            stop_grace: config.script_grace.min(STOP_GRACE),
            keep_releases: config.keep_releases.unwrap_or(KEEP_RELEASES),
            values: BTreeMap::new(),
        }
    }

    /// From the configuration in the journal. When this version refuses it, the settings are as
    /// started.
    pub(crate) fn from_journal(config: &Config, kept: Option<&v1::Configure>) -> Self {
        let Some(kept) = kept else {
            return Self::new(config);
        };
        let settings = Self::configured(config, kept).unwrap_or_else(|why| {
            tracing::warn!(
                revision = kept.revision,
                why,
                "cannot follow the kept configuration"
            );
            Self::new(config)
        });
        settings.set_log(config);
        settings
    }

    pub(crate) fn set_log(&self, config: &Config) {
        if let Some(filter) = &config.log_filter
            && let Err(error) = filter.set(self.log.as_deref())
        {
            tracing::warn!(%error, "cannot change what is logged");
        }
    }

    /// From a configuration of the server, or why it is refused. A configuration is applied as a
    /// whole or not at all. Where the device was started with a limit of its own, the smaller one
    /// holds.
    pub(crate) fn configured(config: &Config, wanted: &v1::Configure) -> Result<Self, String> {
        let mut settings = Self::new(config);
        settings.revision = wanted.revision;
        let given = wanted.settings.clone().unwrap_or_default();
        let range = |name: &str, value: Option<u64>, least: u64, most: u64| match value {
            Some(value) if !(least..=most).contains(&value) => {
                Err(format!("{name} must be {least} to {most}, not {value}"))
            }
            value => Ok(value),
        };
        let millis = |value: Option<u64>| value.map(Duration::from_millis);
        let heartbeat = given.heartbeat_interval_ms;
        settings.heartbeat = millis(range("heartbeat_interval_ms", heartbeat, 100, 3_600_000)?);
        let silence = given.silence_timeout_ms;
        settings.silence = millis(range("silence_timeout_ms", silence, 1000, 3_600_000)?);
        if let (Some(heartbeat), Some(silence)) = (settings.heartbeat, settings.silence)
            && silence < heartbeat * 2
        {
            return Err("silence_timeout_ms must be at least two heartbeats".to_owned());
        }
        if let Some(log) = given.log {
            telemetry::check_filter(&log).map_err(|err| format!("log: {err}"))?;
            settings.log = Some(log);
        }
        if let Some(seconds) = range("max_script_seconds", given.max_script_seconds, 1, 86_400)? {
            let asked = Duration::from_secs(seconds);
            settings.max_script_time = config.max_script_time.map_or(asked, |own| own.min(asked));
        }
        if let Some(grace) = range("script_grace_ms", given.script_grace_ms, 0, 600_000)? {
            settings.script_grace = Duration::from_millis(grace);
            settings.stop_grace = settings.script_grace;
        }
        let keep = given.keep_releases.map(u64::from);
        if let Some(keep) = range("keep_releases", keep, 1, 100)? {
            let asked = usize::try_from(keep).unwrap_or(usize::MAX);
            settings.keep_releases = config.keep_releases.map_or(asked, |own| own.min(asked));
        }
        if wanted.values.len() > MAX_VALUES {
            return Err(format!("more than {MAX_VALUES} values"));
        }
        for (name, value) in &wanted.values {
            check_value(name, value)?;
            settings.values.insert(name.clone(), value.clone());
        }
        Ok(settings)
    }
}

/// A name becomes part of an environment variable's.
fn check_value(name: &str, value: &str) -> Result<(), String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if name.is_empty() || name.len() > 64 || !name.bytes().all(fits) {
        return Err(format!(
            "the name `{name}` must be 1 to 64 of A-Z a-z 0-9 _"
        ));
    }
    if value.len() > MAX_VALUE || value.contains('\0') {
        return Err(format!(
            "the value of `{name}` must be at most {MAX_VALUE} bytes without NUL"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configured(settings: v1::AgentSettings) -> Result<Settings, String> {
        let wanted = v1::Configure {
            revision: 3,
            settings: Some(settings),
            ..v1::Configure::default()
        };
        Settings::configured(&Config::new("/s"), &wanted)
    }

    #[test]
    fn what_is_absent_is_as_started() {
        let config = Config::new("/s");
        let wanted = v1::Configure {
            revision: 3,
            ..v1::Configure::default()
        };
        let settings = Settings::configured(&config, &wanted).unwrap();
        assert_eq!(
            settings,
            Settings {
                revision: 3,
                ..Settings::new(&config)
            }
        );
    }

    #[test]
    fn what_is_given_is_taken() {
        let settings = configured(v1::AgentSettings {
            heartbeat_interval_ms: Some(500),
            silence_timeout_ms: Some(1000),
            log: Some("kernex_agent=debug".into()),
            max_script_seconds: Some(7),
            script_grace_ms: Some(0),
            keep_releases: Some(9),
        })
        .unwrap();
        assert_eq!(settings.heartbeat, Some(Duration::from_millis(500)));
        assert_eq!(settings.silence, Some(Duration::from_secs(1)));
        assert_eq!(settings.log.as_deref(), Some("kernex_agent=debug"));
        assert_eq!(settings.max_script_time, Duration::from_secs(7));
        assert_eq!(settings.script_grace, Duration::ZERO);
        assert_eq!(settings.keep_releases, 9);
    }

    #[test]
    fn what_the_device_was_started_with_is_a_ceiling() {
        let mut config = Config::new("/s");
        config.max_script_time = Some(Duration::from_secs(60));
        config.keep_releases = Some(1);
        for (asked, seconds, keep) in [(600, 60, 1), (30, 30, 1)] {
            let wanted = v1::Configure {
                settings: Some(v1::AgentSettings {
                    max_script_seconds: Some(asked),
                    keep_releases: Some(9),
                    ..v1::AgentSettings::default()
                }),
                ..v1::Configure::default()
            };
            let settings = Settings::configured(&config, &wanted).unwrap();
            assert_eq!(settings.max_script_time, Duration::from_secs(seconds));
            assert_eq!(settings.keep_releases, keep);
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_name() {
        let none = v1::AgentSettings::default;
        let table = [
            (
                "heartbeat_interval_ms",
                v1::AgentSettings {
                    heartbeat_interval_ms: Some(99),
                    ..none()
                },
            ),
            (
                "silence_timeout_ms",
                v1::AgentSettings {
                    silence_timeout_ms: Some(999),
                    ..none()
                },
            ),
            (
                "silence_timeout_ms",
                v1::AgentSettings {
                    heartbeat_interval_ms: Some(1000),
                    silence_timeout_ms: Some(1999),
                    ..none()
                },
            ),
            (
                "log",
                v1::AgentSettings {
                    log: Some("=loud=".into()),
                    ..none()
                },
            ),
            (
                "max_script_seconds",
                v1::AgentSettings {
                    max_script_seconds: Some(0),
                    ..none()
                },
            ),
            (
                "script_grace_ms",
                v1::AgentSettings {
                    script_grace_ms: Some(600_001),
                    ..none()
                },
            ),
            (
                "keep_releases",
                v1::AgentSettings {
                    keep_releases: Some(0),
                    ..none()
                },
            ),
        ];
        for (name, settings) in table {
            let why = configured(settings).unwrap_err();
            assert!(why.contains(name), "{why}");
        }
        for (name, value) in [("", "x"), ("a-b", "x"), ("A=B", "x"), ("A", "\0")] {
            let wanted = v1::Configure {
                values: [(name.to_owned(), value.to_owned())].into(),
                ..v1::Configure::default()
            };
            assert!(
                Settings::configured(&Config::new("/s"), &wanted).is_err(),
                "{name}"
            );
        }
    }
}
