//! What was typed becomes what is meant. Each value is checked here, and an error says what to
//! write instead.

use std::{fmt, net::IpAddr, path::PathBuf, time::Duration};

use ipnet::IpNet;
use kernex_proto::{PROTOCOL_REVISION, telemetry::LogFormat, units::size};

use super::{
    BundleConfig, Config, ConfigError, NetworkConfig, Options, units::duration, values::Values,
};
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
        Self::from_values(&options.values.over(file))
    }

    fn from_values(values: &Values) -> Result<Self, ConfigError> {
        let data_dir = values.data_dir.clone();
        let mut config = Self::for_dev(data_dir.unwrap_or_else(|| PathBuf::from("kernex-data")));
        config.announce = true;
        if let Some(url) = &values.database_url {
            check_database_url(url)?;
            config.database_url.clone_from(url);
        }
        set_network(&mut config.network, values)?;
        set_bundles(&mut config.bundles, values)?;
        set_limits(&mut config, values)?;
        take(
            "--heartbeat-interval",
            values.heartbeat_interval.as_deref(),
            |text| duration(text).filter(|d| *d >= Duration::from_millis(100)),
            "write a duration of at least 100ms, such as 20s",
            &mut config.heartbeat_interval,
        )?;
        take(
            "--drain-deadline",
            values.drain_deadline.as_deref(),
            duration,
            "write a duration such as 10s",
            &mut config.drain_deadline,
        )?;
        take(
            "--log-format",
            values.log_format.as_deref(),
            log_format,
            "write text or json",
            &mut config.log_format,
        )?;
        Ok(config)
    }
}

/// The value may hold a password, so an error repeats only its scheme.
fn check_database_url(url: &str) -> Result<(), ConfigError> {
    let known = ["sqlite:", "postgres://", "postgresql://"];
    if known.iter().any(|scheme| url.starts_with(scheme)) {
        return Ok(());
    }
    Err(ConfigError::BadValue {
        setting: "--database-url",
        value: url.split("://").next().unwrap_or("").to_owned(),
        why: "start it with postgres:// or sqlite://".into(),
    })
}

/// Addresses, TLS, proxies, and connections on which nothing has authenticated.
fn set_network(network: &mut NetworkConfig, values: &Values) -> Result<(), ConfigError> {
    network.listen = parse(
        "--listen",
        values.listen.as_deref().unwrap_or(DEFAULT_LISTEN),
        |text| text.parse().ok(),
        "write ADDRESS:PORT, such as 0.0.0.0:7443",
    )?;
    let metrics = values.metrics_listen.as_deref();
    network.metrics_listen = match metrics.unwrap_or(DEFAULT_METRICS_LISTEN) {
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
    network.public_addresses.clone_from(&values.public_address);
    for text in &values.trusted_proxies {
        network.trusted_proxies.push(parse(
            "--trusted-proxies",
            text,
            address_range,
            "write an address or a network, such as 10.0.0.7 or 10.0.0.0/8",
        )?);
    }
    let strangers = &mut network.strangers;
    take(
        "--probation",
        values.probation.as_deref(),
        |text| duration(text).filter(|d| *d >= Duration::from_secs(1)),
        "write a duration of at least 1s, such as 15s",
        &mut strangers.probation,
    )?;
    let most = values.max_strangers_per_source;
    strangers.max_per_source = most.unwrap_or(strangers.max_per_source);
    network.open_reflection = values.open_reflection;
    network.plaintext = values.plaintext;
    network.tls = match (values.tls_cert.clone(), values.tls_key.clone()) {
        (None, None) => None,
        (Some(certificate), Some(key)) if !values.plaintext => {
            Some(GivenFiles { certificate, key })
        }
        _ => return Err(ConfigError::HalfCertificate),
    };
    if network.plaintext && !network.listen.ip().is_loopback() {
        return Err(ConfigError::PlaintextInPublic(network.listen));
    }
    Ok(())
}

/// Where bundles are, how large one may be, and what it may hold.
fn set_bundles(bundles: &mut BundleConfig, values: &Values) -> Result<(), ConfigError> {
    if let Some(store) = &values.bundle_store {
        parse(
            "--bundle-store",
            store,
            place,
            "write a folder; other stores are not built into this kernex-server",
        )?;
        bundles.store.clone_from(store);
    }
    take(
        "--max-bundle-size",
        values.max_bundle_size.as_deref(),
        size,
        "write a number of bytes or a size such as 500MiB or 4GiB",
        &mut bundles.max_size,
    )?;
    let archives = &mut bundles.archive_limits;
    take(
        "--max-unpacked-size",
        values.max_unpacked_size.as_deref(),
        |text| size(text).filter(|bytes| *bytes > 0),
        "write a number of bytes or a size such as 500MiB or 64GiB",
        &mut archives.max_unpacked_bytes,
    )?;
    take_count(
        "--max-bundle-entries",
        values.max_bundle_entries,
        &mut archives.max_entries,
    )?;
    take_count(
        "--max-compression-ratio",
        values.max_compression_ratio,
        &mut archives.max_ratio,
    )
}

/// How long things are kept, what callers may have under way, and which devices are left out.
fn set_limits(config: &mut Config, values: &Values) -> Result<(), ConfigError> {
    take(
        "--metrics-retention",
        values.metrics_retention.as_deref(),
        |text| duration(text).filter(|d| *d >= Duration::from_secs(60)),
        "write a duration of at least 1m, such as 7d",
        &mut config.retention.samples,
    )?;
    take(
        "--audit-retention",
        values.audit_retention.as_deref(),
        |text| duration(text).filter(|d| *d >= Duration::from_secs(3600)),
        "write a duration of at least 1h, such as 365d",
        &mut config.retention.audit,
    )?;
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
    take(
        "--stall-limit",
        values.stall_limit.as_deref(),
        |text| duration(text).filter(|d| *d >= Duration::from_millis(100)),
        "write a duration of at least 100ms, such as 30s",
        &mut config.answers.stall,
    )?;
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
    Ok(())
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

/// Takes over a value that was typed, if one was.
fn take<T>(
    setting: &'static str,
    typed: Option<&str>,
    read: impl Fn(&str) -> Option<T>,
    why: &str,
    meant: &mut T,
) -> Result<(), ConfigError> {
    if let Some(text) = typed {
        *meant = parse(setting, text, read, why)?;
    }
    Ok(())
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
fn address_range(text: &str) -> Option<IpNet> {
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

fn log_format(text: &str) -> Option<LogFormat> {
    match text {
        "text" => Some(LogFormat::Text),
        "json" => Some(LogFormat::Json),
        _ => None,
    }
}

fn host(text: &str) -> Option<()> {
    let name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'*');
    let fits = !text.is_empty() && text.len() <= 253 && text.bytes().all(name);
    (fits || text.parse::<IpAddr>().is_ok()).then_some(())
}
