//! What was typed becomes what is meant. Each value is checked here, and an error says what to
//! write instead.

use std::{fmt, net::IpAddr, path::PathBuf, time::Duration};

use ipnet::IpNet;
use kernex_proto::{PROTOCOL_REVISION, telemetry::LogFormat, units::size};

use super::{Config, ConfigError, Options, units::duration, values::Values};
use crate::edge::tls::GivenFiles;

const DEFAULT_LISTEN: &str = "0.0.0.0:7443";
const DEFAULT_METRICS_LISTEN: &str = "127.0.0.1:7444";

impl Config {
    /// Flags and environment are in `options` already. Adds the file and the defaults.
    pub fn resolve(options: Options) -> Result<Self, ConfigError> {
        let file = match &options.config {
            Some(path) => Values::read(path)?,
            None => Values::default(),
        };
        Self::from_values(options.values.over(file))
    }

    fn from_values(values: Values) -> Result<Self, ConfigError> {
        let data_dir = values
            .data_dir
            .unwrap_or_else(|| PathBuf::from("kernex-data"));
        let mut config = Self::for_dev(data_dir);
        config.announce = true;
        config.network.listen = parse(
            "--listen",
            values.listen.as_deref().unwrap_or(DEFAULT_LISTEN),
            |text| text.parse().ok(),
            "write ADDRESS:PORT, such as 0.0.0.0:7443",
        )?;
        let metrics = values.metrics_listen.as_deref();
        config.network.metrics_listen = match metrics.unwrap_or(DEFAULT_METRICS_LISTEN) {
            "" => None,
            address => Some(parse(
                "--metrics-listen",
                address,
                |text| text.parse().ok(),
                "write ADDRESS:PORT, such as 127.0.0.1:7444, or nothing to turn it off",
            )?),
        };
        for address in &values.public_address {
            parse(
                "--public-address",
                address,
                host,
                "write a host name or an address, without port",
            )?;
        }
        config.network.public_addresses = values.public_address;
        if let Some(url) = values.database_url {
            let known = ["sqlite:", "postgres://", "postgresql://"];
            if !known.iter().any(|scheme| url.starts_with(scheme)) {
                // The value may hold a password, so only its scheme is repeated.
                return Err(ConfigError::BadValue {
                    setting: "--database-url",
                    value: url.split("://").next().unwrap_or("").to_owned(),
                    why: "start it with postgres:// or sqlite://".into(),
                });
            }
            config.database_url = url;
        }
        if let Some(store) = values.bundle_store {
            parse(
                "--bundle-store",
                &store,
                place,
                "write a folder; other stores are not built into this kernex-server",
            )?;
            config.bundle_store = store;
        }
        if let Some(text) = values.max_bundle_size {
            config.max_bundle_size = parse(
                "--max-bundle-size",
                &text,
                size,
                "write a number of bytes or a size such as 500MiB or 4GiB",
            )?;
        }
        let archives = &mut config.archive_limits;
        if let Some(text) = values.max_unpacked_size {
            archives.max_unpacked_bytes = parse(
                "--max-unpacked-size",
                &text,
                |text| size(text).filter(|bytes| *bytes > 0),
                "write a number of bytes or a size such as 500MiB or 64GiB",
            )?;
        }
        take_count(
            "--max-bundle-entries",
            values.max_bundle_entries,
            &mut archives.max_entries,
        )?;
        take_count(
            "--max-compression-ratio",
            values.max_compression_ratio,
            &mut archives.max_ratio,
        )?;
        if let Some(text) = values.heartbeat_interval {
            config.heartbeat_interval = parse(
                "--heartbeat-interval",
                &text,
                |text| duration(text).filter(|d| *d >= Duration::from_millis(100)),
                "write a duration of at least 100ms, such as 20s",
            )?;
        }
        for text in &values.trusted_proxies {
            config.network.trusted_proxies.push(parse(
                "--trusted-proxies",
                text,
                network,
                "write an address or a network, such as 10.0.0.7 or 10.0.0.0/8",
            )?);
        }
        if let Some(text) = values.probation {
            config.strangers.probation = parse(
                "--probation",
                &text,
                |text| duration(text).filter(|d| *d >= Duration::from_secs(1)),
                "write a duration of at least 1s, such as 15s",
            )?;
        }
        config.strangers.max_per_source = values
            .max_strangers_per_source
            .unwrap_or(config.strangers.max_per_source);
        config.network.open_reflection = values.open_reflection;
        if let Some(text) = values.drain_deadline {
            config.drain_deadline = parse(
                "--drain-deadline",
                &text,
                duration,
                "write a duration such as 10s",
            )?;
        }
        if let Some(text) = values.metrics_retention {
            config.retention.samples = parse(
                "--metrics-retention",
                &text,
                |text| duration(text).filter(|d| *d >= Duration::from_secs(60)),
                "write a duration of at least 1m, such as 7d",
            )?;
        }
        if let Some(text) = values.audit_retention {
            config.retention.audit = parse(
                "--audit-retention",
                &text,
                |text| duration(text).filter(|d| *d >= Duration::from_secs(3600)),
                "write a duration of at least 1h, such as 365d",
            )?;
        }
        if let Some(text) = values.log_format {
            config.log_format = parse(
                "--log-format",
                &text,
                |text| match text {
                    "text" => Some(LogFormat::Text),
                    "json" => Some(LogFormat::Json),
                    _ => None,
                },
                "write text or json",
            )?;
        }
        let most = &mut config.answers.most;
        take_count(
            "--max-streams-per-token",
            values.max_streams_per_token,
            &mut most.streams,
        )?;
        take_count(
            "--max-uploads-per-token",
            values.max_uploads_per_token,
            &mut most.uploads,
        )?;
        take_count(
            "--max-plans-per-token",
            values.max_plans_per_token,
            &mut most.plans,
        )?;
        if let Some(text) = values.stall_limit {
            config.answers.stall = parse(
                "--stall-limit",
                &text,
                |text| duration(text).filter(|d| *d >= Duration::from_millis(100)),
                "write a duration of at least 100ms, such as 30s",
            )?;
        }
        config.penalty_after = values.penalty_after.unwrap_or(config.penalty_after);
        if let Some(revision) = values.min_protocol {
            if !(1..=PROTOCOL_REVISION).contains(&revision) {
                return Err(ConfigError::BadValue {
                    setting: "--min-protocol",
                    value: revision.to_string(),
                    why: format!("write a revision from 1 to {PROTOCOL_REVISION}"),
                });
            }
            config.min_protocol = revision;
        }
        config.network.plaintext = values.plaintext;
        config.network.tls = match (values.tls_cert, values.tls_key) {
            (None, None) => None,
            (Some(certificate), Some(key)) if !values.plaintext => {
                Some(GivenFiles { certificate, key })
            }
            _ => return Err(ConfigError::HalfCertificate),
        };
        if config.network.plaintext && !config.network.listen.ip().is_loopback() {
            return Err(ConfigError::PlaintextInPublic(config.network.listen));
        }
        Ok(config)
    }
}

fn parse<T>(
    setting: &'static str,
    value: &str,
    read: impl Fn(&str) -> Option<T>,
    why: &str,
) -> Result<T, ConfigError> {
    read(value).ok_or_else(|| ConfigError::BadValue {
        setting,
        value: value.to_owned(),
        why: why.to_owned(),
    })
}

/// Takes over a number that was typed, if one was. It has to be at least 1.
fn take_count<N>(setting: &'static str, typed: Option<N>, meant: &mut N) -> Result<(), ConfigError>
where
    N: Copy + fmt::Display + PartialOrd + From<u8>,
{
    let Some(number) = typed else {
        return Ok(());
    };
    *meant = parse(
        setting,
        &number.to_string(),
        |_| (number >= N::from(1)).then_some(number),
        "write a number of at least 1",
    )?;
    Ok(())
}

/// A single address is a network of one.
fn network(text: &str) -> Option<IpNet> {
    text.parse()
        .ok()
        .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// A folder. No other kind of store is built in.
fn place(text: &str) -> Option<()> {
    match text.split_once("://") {
        None => (!text.is_empty()).then_some(()),
        Some((scheme, folder)) => (scheme == "file" && folder.starts_with('/')).then_some(()),
    }
}

fn host(text: &str) -> Option<()> {
    let name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'*');
    let fits = !text.is_empty() && text.len() <= 253 && text.bytes().all(name);
    (fits || text.parse::<IpAddr>().is_ok()).then_some(())
}
