//! How a release shows that it is healthy: one kind of probe, and how often and how long it has to
//! hold.

use std::time::Duration;

use http::Uri;
use serde::Serialize;
use serde_json::Value;

use super::{
    MAX_TIMEOUT_SECONDS, ManifestError,
    fields::{self, Fields},
    table::{DEFAULT_INTERVAL_SECONDS, DEFAULT_PROBE_SECONDS, DEFAULT_RETRIES, MAX_RETRIES},
};

/// How a release shows that it is healthy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Health {
    /// What is asked.
    #[serde(flatten)]
    pub probe: Probe,
    /// Seconds before the first probe.
    pub initial_delay_seconds: u64,
    /// Seconds from the end of one probe to the next.
    pub interval_seconds: u64,
    /// Seconds one probe may take.
    pub timeout_seconds: u64,
    /// Failed probes that are forgiven over the whole check; one more and the release is unhealthy.
    pub retries: u64,
    /// Seconds for which every probe has to succeed before the release counts as healthy; 0: one
    /// success is enough.
    pub hold_seconds: u64,
}

/// What is asked; exactly one of them stands in the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Probe {
    /// Shell command or file of the bundle, run like the scripts; exit code 0 is healthy.
    Command(String),
    /// `host:port`; a connection that opens is healthy.
    Tcp(String),
    /// An `http://` address; an answer with a status of 200 to 399 is healthy, redirects are not
    /// followed.
    Http(String),
}

impl Health {
    #[must_use]
    pub fn initial_delay(&self) -> Duration {
        Duration::from_secs(self.initial_delay_seconds)
    }

    #[must_use]
    pub fn interval(&self) -> Duration {
        Duration::from_secs(self.interval_seconds)
    }

    #[must_use]
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds)
    }

    #[must_use]
    pub fn hold(&self) -> Duration {
        Duration::from_secs(self.hold_seconds)
    }

    pub(super) fn read(fields: &mut Fields) -> Result<Self, ManifestError> {
        let probes = [
            fields.take("command", fields::script)?.map(Probe::Command),
            fields.take("tcp", tcp)?.map(Probe::Tcp),
            fields.take("http", http)?.map(Probe::Http),
        ];
        let mut probes = probes.into_iter().flatten();
        let (Some(probe), None) = (probes.next(), probes.next()) else {
            let why = "must have exactly one of `command`, `tcp` and `http`";
            return Err(ManifestError::field("health", why));
        };
        let mut seconds = |name: &str, least: u64, default: u64| {
            let read = |value| fields::within(&value, least, MAX_TIMEOUT_SECONDS);
            Ok::<_, ManifestError>(fields.take(name, read)?.unwrap_or(default))
        };
        Ok(Self {
            probe,
            initial_delay_seconds: seconds("initial_delay_seconds", 0, 0)?,
            interval_seconds: seconds("interval_seconds", 1, DEFAULT_INTERVAL_SECONDS)?,
            timeout_seconds: seconds("timeout_seconds", 1, DEFAULT_PROBE_SECONDS)?,
            hold_seconds: seconds("hold_seconds", 0, 0)?,
            retries: fields
                .take("retries", |value| fields::within(&value, 0, MAX_RETRIES))?
                .unwrap_or(DEFAULT_RETRIES),
        })
    }
}

fn tcp(value: Value) -> Result<String, String> {
    let address = fields::text(value)?;
    let port = address.rsplit_once(':').and_then(|(host, port)| {
        let named = !host.is_empty() && !host.contains(['/', ' ']);
        port.parse::<u16>().ok().filter(|port| named && *port != 0)
    });
    match port {
        Some(_) => Ok(address),
        None => Err("must be `host:port`, like `127.0.0.1:8080`".to_owned()),
    }
}

fn http(value: Value) -> Result<String, String> {
    let text = fields::text(value)?;
    let why = || "must be an address like `http://127.0.0.1:8080/health`".to_owned();
    let uri: Uri = text.parse().map_err(|_| why())?;
    match (uri.scheme_str(), uri.host()) {
        (Some("http"), Some(host)) if !host.is_empty() => Ok(text),
        (Some("https"), _) => {
            Err("must be `http://`; use `command` for anything that needs certificates".to_owned())
        }
        _ => Err(why()),
    }
}
