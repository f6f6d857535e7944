//! What was typed becomes what is meant, validated once: flags win over `KERNEX_*`, those over the
//! file, those over defaults.

mod units;
mod values;

use std::{
    ffi::OsString,
    fmt,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use ipnet::IpNet;
use kernex_proto::{PROTOCOL_REVISION, archive::Limits, near, telemetry::LogFormat, units::size};

use self::{units::duration, values::Values};
use crate::{
    domain::penalty,
    edge::{answers::AnswerLimits, tls::GivenFiles},
    store::Retention,
};

/// Largest bundle when nothing else is said: 4 GiB.
pub const DEFAULT_MAX_BUNDLE_SIZE: u64 = 4 << 30;

/// Strangers of one source when nothing else is said: a fleet behind one address comes back in
/// turns of so many, each of which takes some tenths of a second.
const DEFAULT_STRANGERS: usize = 256;
/// Enough for a slow device on a slow line to prove who it is.
const DEFAULT_PROBATION: Duration = Duration::from_secs(15);

const DEFAULT_LISTEN: &str = "0.0.0.0:7443";
const DEFAULT_METRICS_LISTEN: &str = "127.0.0.1:7444";

/// The Kernex control plane.
#[derive(Debug, Parser)]
#[command(name = "kernex-server", version, about)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the control plane.
    Serve(Options),
    /// Bring the database to this version's schema, then stop.
    Migrate(Options),
    /// Read flags, environment and file, say what is wrong with them, and change nothing.
    CheckConfig(Options),
    /// Copy every row of the stopped server's database to another one, which has to be empty: from
    /// SQLite to PostgreSQL, or back. Keys and bundles stay where they are.
    CopyDatabase {
        /// `postgres://...` or `sqlite://...`: where to copy to.
        #[arg(
            long,
            env = "KERNEX_COPY_TO",
            value_name = "URL",
            hide_env_values = true
        )]
        to: String,
        #[command(flatten)]
        options: Options,
    },
    /// Ask the server on this machine, at `--metrics-listen`, whether it is ready; for health
    /// checks of containers.
    Probe(Options),
    /// Write a new admin token into `admin.token` in the data folder, when every other token is
    /// lost or expired. The server may run meanwhile.
    AdminToken {
        /// Revoke the admin tokens that the first start and this command made before.
        #[arg(long)]
        replace: bool,
        #[command(flatten)]
        options: Options,
    },
}

/// Everything that can be set, as typed. The file given with `--config` knows the same names, with
/// `_` for `-`.
#[derive(Debug, Default, Clone, Args)]
pub struct Options {
    /// TOML file with the settings below.
    #[arg(long, env = "KERNEX_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    values: Values,
}

/// What is wrong with the configuration, in one sentence.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration file {}", path.display())]
    Unreadable {
        path: PathBuf,
        source: std::io::Error,
    },
    /// The file is not TOML or has a setting nobody knows.
    #[error("the configuration file {} is not valid: {why}", path.display())]
    NotValid {
        path: PathBuf,
        /// Which line and why.
        why: String,
    },
    /// A value does not mean anything.
    #[error("`{value}` is not valid for {setting}: {why}")]
    BadValue {
        /// The setting, as a flag.
        setting: &'static str,
        /// What was given.
        value: String,
        /// What is expected.
        why: String,
    },
    /// A certificate without its key, or the other way round, or with --plaintext.
    #[error("--tls-cert and --tls-key belong together, and --plaintext needs neither")]
    HalfCertificate,
    /// Plaintext beyond this machine.
    #[error("--plaintext is allowed on a loopback address only, and {0} is not one")]
    PlaintextInPublic(SocketAddr),
}

/// What is meant.
#[derive(Debug, Clone)]
pub struct Config {
    /// Folder for certificates, tokens, the default database and bundles.
    pub data_dir: PathBuf,
    /// `postgres://...` or `sqlite://...`.
    pub database_url: String,
    /// Folder for bundles.
    pub bundle_store: String,
    /// Largest bundle in bytes.
    pub max_bundle_size: u64,
    /// How much a bundle may hold, here and on devices.
    pub archive_limits: Limits,
    /// Addresses, and who is answered there.
    pub network: NetworkConfig,
    /// Limits of connections on which nothing has authenticated.
    pub strangers: StrangerConfig,
    /// Time between heartbeats.
    pub heartbeat_interval: Duration,
    /// Oldest revision of the session protocol that agents may prove themselves by.
    pub min_protocol: u32,
    /// Format of the logs.
    pub log_format: LogFormat,
    /// Longest soft stop.
    pub drain_deadline: Duration,
    /// Failures of a bundle in a row after which a device is left out; 0 for never.
    pub penalty_after: u32,
    /// What callers may have under way, and how long they may read nothing of it.
    pub answers: AnswerLimits,
    /// How long events, audit entries and samples are kept.
    pub retention: Retention,
    /// This is a program of its own: print the CA pin and the next command to standard output at
    /// the first start, and tell the service manager how it is.
    pub announce: bool,
}

/// Addresses, and who is answered there.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// Where to listen; `run` gets the bound listener, this names it in messages.
    pub listen: SocketAddr,
    /// Where to answer scrapes and probes; nowhere when there is none.
    pub metrics_listen: Option<SocketAddr>,
    /// Further names for the certificate.
    pub public_addresses: Vec<String>,
    /// A certificate that somebody else made.
    pub tls: Option<GivenFiles>,
    /// Serve without TLS.
    pub plaintext: bool,
    /// Proxies whose word about the caller's address is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether the schema is told to everybody.
    pub open_reflection: bool,
}

impl NetworkConfig {
    /// Names of this server beyond those of its machine: what it was told, and the address it
    /// listens on when that is a single one.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let mut names = self.public_addresses.clone();
        let listen = self.listen.ip();
        if !listen.is_unspecified() {
            names.push(listen.to_canonical().to_string());
        }
        names
    }
}

/// Limits of connections on which nothing has authenticated.
#[derive(Debug, Clone, Copy)]
pub struct StrangerConfig {
    /// Connections of one source; 0 for no limit.
    pub max_per_source: usize,
    /// Time until something on a connection has to have authenticated.
    pub probation: Duration,
}

impl Config {
    /// Settings for a control plane inside another program: loopback, everything in `data_dir`,
    /// nothing printed.
    #[must_use]
    pub fn for_dev(data_dir: impl Into<PathBuf>) -> Self {
        let data_dir = data_dir.into();
        Self {
            database_url: sqlite_url(&data_dir),
            bundle_store: data_dir.join("bundles").to_string_lossy().into_owned(),
            max_bundle_size: DEFAULT_MAX_BUNDLE_SIZE,
            archive_limits: Limits::default(),
            network: NetworkConfig {
                listen: SocketAddr::from(([127, 0, 0, 1], 0)),
                metrics_listen: None,
                public_addresses: Vec::new(),
                tls: None,
                plaintext: false,
                trusted_proxies: Vec::new(),
                open_reflection: false,
            },
            strangers: StrangerConfig {
                max_per_source: DEFAULT_STRANGERS,
                probation: DEFAULT_PROBATION,
            },
            heartbeat_interval: Duration::from_secs(20),
            min_protocol: 1,
            log_format: LogFormat::Text,
            drain_deadline: Duration::from_secs(10),
            penalty_after: penalty::DEFAULT_AFTER,
            answers: AnswerLimits::default(),
            retention: Retention::default(),
            announce: false,
            data_dir,
        }
    }

    /// Merges flags and environment (already in `options`) with the file and the defaults.
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
                // The value may hold a password, so it is not repeated.
                return Err(ConfigError::BadValue {
                    setting: "--database-url",
                    value: url.split("://").next().unwrap_or("").to_owned(),
                    why: "start it with postgres:// or sqlite://".into(),
                });
            }
            config.database_url = url;
        }
        if let Some(store) = values.bundle_store {
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

/// Variables of other programs of Kernex, and of its scripts and tests.
const OTHERS: [&str; 4] = [
    "KERNEX_SERVER",
    "KERNEX_TOKEN",
    "KERNEX_CA",
    "KERNEX_CONTEXT",
];

/// Variables of the environment that look like settings of the server and are none.
pub fn strange_variables(environment: impl Iterator<Item = OsString>) -> Vec<near::Stranger> {
    let mut known = values::settings(|argument| Some(argument.get_env()?.to_str()?.to_owned()));
    known.push("KERNEX_CONFIG".to_owned());
    let is_ours = |name: &String| {
        name.starts_with("KERNEX_")
            && !name.starts_with("KERNEX_AGENT_")
            && !name.starts_with("KERNEX_TEST_")
            && !OTHERS.contains(&name.as_str())
    };
    let given: Vec<String> = environment
        .filter_map(|name| name.into_string().ok())
        .filter(is_ours)
        .collect();
    near::strangers(
        given.iter().map(String::as_str),
        known.iter().map(String::as_str),
        "KERNEX_",
    )
}

fn sqlite_url(data_dir: &Path) -> String {
    format!("sqlite://{}", data_dir.join("kernex.db").display())
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

/// Takes a number that was typed, if one was; it has to be at least 1.
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

/// An address is a network of one.
fn network(text: &str) -> Option<IpNet> {
    text.parse()
        .ok()
        .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

fn host(text: &str) -> Option<()> {
    let name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'*');
    let fits = !text.is_empty() && text.len() <= 253 && text.bytes().all(name);
    (fits || text.parse::<IpAddr>().is_ok()).then_some(())
}

#[cfg(test)]
mod tests;
