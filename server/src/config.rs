//! What was typed becomes what is meant, validated once: flags win over `KERNEX_*`, those over the
//! file, those over defaults.

mod units;

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use ipnet::IpNet;
use kernex_proto::{PROTOCOL_REVISION, telemetry::LogFormat, units::size};
use serde::Deserialize;

use self::units::duration;
use crate::{domain::penalty, edge::answers::AnswerLimits, store::events::Retention};

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

/// The verbs of `kernex-server`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the control plane.
    Serve(Options),
    /// Bring the database to this version's schema, then stop.
    Migrate(Options),
    /// Read flags, environment and file, say what is wrong with them, and change nothing.
    CheckConfig(Options),
    /// Write a new admin token into the data folder, when every other token is lost or expired.
    AdminToken(Options),
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

#[derive(Debug, Default, Clone, Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Values {
    /// Folder for certificates, tokens, the database and bundles [default: ./kernex-data].
    #[arg(long, env = "KERNEX_DATA_DIR", value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
    /// Address to listen on [default: 0.0.0.0:7443].
    #[arg(long, env = "KERNEX_LISTEN", value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// Address for metrics and probes, in plain HTTP; an empty value turns them off [default:
    /// 127.0.0.1:7444].
    #[arg(long, env = "KERNEX_METRICS_LISTEN", value_name = "ADDRESS:PORT")]
    metrics_listen: Option<String>,
    /// Name or address agents and operators reach this server by; goes into its certificate. May be
    /// repeated.
    #[arg(
        long,
        env = "KERNEX_PUBLIC_ADDRESS",
        value_name = "HOST",
        value_delimiter = ','
    )]
    public_address: Vec<String>,
    /// `postgres://...` or `sqlite://...` [default: kernex.db in the data folder].
    #[arg(
        long,
        env = "KERNEX_DATABASE_URL",
        value_name = "URL",
        hide_env_values = true
    )]
    database_url: Option<String>,
    /// Folder for bundles [default: bundles/ in the data folder].
    #[arg(long, env = "KERNEX_BUNDLE_STORE", value_name = "FOLDER")]
    bundle_store: Option<String>,
    /// Largest bundle, such as 4GiB [default: 4GiB].
    #[arg(long, env = "KERNEX_MAX_BUNDLE_SIZE", value_name = "SIZE")]
    max_bundle_size: Option<String>,
    /// Time between heartbeats of an agent [default: 20s].
    #[arg(long, env = "KERNEX_HEARTBEAT_INTERVAL", value_name = "DURATION")]
    heartbeat_interval: Option<String>,
    /// `text` or `json` [default: text].
    #[arg(long, env = "KERNEX_LOG_FORMAT", value_name = "FORMAT")]
    log_format: Option<String>,
    /// Serve without TLS; only on a loopback address.
    #[arg(long, env = "KERNEX_PLAINTEXT")]
    plaintext: bool,
    /// Proxy or network of proxies, such as 10.0.0.0/8, that tells where callers are by PROXY
    /// protocol version 2. May be repeated.
    #[arg(
        long,
        env = "KERNEX_TRUSTED_PROXIES",
        value_name = "CIDR",
        value_delimiter = ','
    )]
    trusted_proxies: Vec<String>,
    /// Most connections of one address (IPv6: of one /64) on which nothing has authenticated; 0 for
    /// no limit [default: 256].
    #[arg(long, env = "KERNEX_MAX_STRANGERS_PER_SOURCE", value_name = "N")]
    max_strangers_per_source: Option<usize>,
    /// How long a connection has until something on it has authenticated [default: 15s].
    #[arg(long, env = "KERNEX_PROBATION", value_name = "DURATION")]
    probation: Option<String>,
    /// Answer gRPC reflection without a token.
    #[arg(long, env = "KERNEX_OPEN_REFLECTION")]
    open_reflection: bool,
    /// How long a stop may take before everything left is dropped [default: 10s].
    #[arg(long, env = "KERNEX_DRAIN_DEADLINE", value_name = "DURATION")]
    drain_deadline: Option<String>,
    /// Failures of a bundle in a row after which a device gets it by an explicit retry only; 0 for
    /// never [default: 3].
    #[arg(long, env = "KERNEX_PENALTY_AFTER", value_name = "N")]
    penalty_after: Option<u32>,
    /// Watches and downloads a token may have open at a time [default: 16].
    #[arg(long, env = "KERNEX_MAX_STREAMS_PER_TOKEN", value_name = "N")]
    max_streams_per_token: Option<u32>,
    /// Uploads a token may have under way at a time [default: 4].
    #[arg(long, env = "KERNEX_MAX_UPLOADS_PER_TOKEN", value_name = "N")]
    max_uploads_per_token: Option<u32>,
    /// Plans a token may have devices asked about at a time [default: 2].
    #[arg(long, env = "KERNEX_MAX_PLANS_PER_TOKEN", value_name = "N")]
    max_plans_per_token: Option<u32>,
    /// Time without a byte taken after which a stream is ended, and its connection after as long
    /// again [default: 30s].
    #[arg(long, env = "KERNEX_STALL_LIMIT", value_name = "DURATION", hide = true)]
    stall_limit: Option<String>,
    /// Oldest revision of the session protocol that agents may prove themselves by; 2 shuts out
    /// agents of before [default: 1].
    #[arg(long, env = "KERNEX_MIN_PROTOCOL", value_name = "REVISION")]
    min_protocol: Option<u32>,
    /// How long sampled heartbeats are kept [default: 7d].
    #[arg(long, env = "KERNEX_METRICS_RETENTION", value_name = "DURATION")]
    metrics_retention: Option<String>,
}

/// What is wrong with the configuration, in one sentence.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration file {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML or has a setting nobody knows.
    #[error("the configuration file {} is not valid: {why}", path.display())]
    NotValid {
        /// The file.
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
    /// Plaintext beyond this machine.
    #[error("--plaintext is allowed on a loopback address only, and {0} is not one")]
    PlaintextInPublic(SocketAddr),
}

/// What is meant.
#[derive(Debug, Clone)]
pub struct Config {
    /// Folder for certificates, tokens, the default database and bundles.
    pub data_dir: PathBuf,
    /// Where to listen; `run` gets the bound listener, this names it in messages.
    pub listen: SocketAddr,
    /// Where to answer scrapes and probes; nowhere when there is none.
    pub metrics_listen: Option<SocketAddr>,
    /// Further names for the certificate.
    pub public_addresses: Vec<String>,
    /// The database.
    pub database_url: String,
    /// Where bundles are kept: a folder or a URL.
    pub bundle_store: String,
    /// Largest bundle in bytes.
    pub max_bundle_size: u64,
    /// Time between heartbeats.
    pub heartbeat_interval: Duration,
    /// Form of the logs.
    pub log_format: LogFormat,
    /// No TLS.
    pub plaintext: bool,
    /// Whose word about the caller's address is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Connections of one source on which nothing has authenticated; 0 for no limit.
    pub max_strangers_per_source: usize,
    /// Time until something on a connection has to have authenticated.
    pub probation: Duration,
    /// Whether the schema is told to everybody.
    pub open_reflection: bool,
    /// Longest soft stop.
    pub drain_deadline: Duration,
    /// Failures of a bundle in a row after which a device is left out; 0 for never.
    pub penalty_after: u32,
    /// What callers may have under way, and how long they may read nothing of it.
    pub answers: AnswerLimits,
    /// Oldest revision of the session protocol that is taken.
    pub min_protocol: u32,
    /// How long what grows is kept.
    pub retention: Retention,
    /// Print the CA pin and the next command to standard output at the first start.
    pub announce: bool,
}

impl Config {
    /// Settings for a control plane inside another program: loopback, everything in `data_dir`,
    /// nothing printed.
    #[must_use]
    pub fn for_dev(data_dir: impl Into<PathBuf>) -> Self {
        let data_dir = data_dir.into();
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            metrics_listen: None,
            public_addresses: Vec::new(),
            database_url: sqlite_url(&data_dir),
            bundle_store: data_dir.join("bundles").to_string_lossy().into_owned(),
            max_bundle_size: DEFAULT_MAX_BUNDLE_SIZE,
            heartbeat_interval: Duration::from_secs(20),
            log_format: LogFormat::Text,
            plaintext: false,
            trusted_proxies: Vec::new(),
            max_strangers_per_source: DEFAULT_STRANGERS,
            probation: DEFAULT_PROBATION,
            open_reflection: false,
            drain_deadline: Duration::from_secs(10),
            penalty_after: penalty::DEFAULT_AFTER,
            answers: AnswerLimits::default(),
            min_protocol: 1,
            retention: Retention::default(),
            announce: false,
            data_dir,
        }
    }

    /// Merges flags and environment (already in `options`) with the file and the defaults.
    pub fn resolve(options: Options) -> Result<Self, ConfigError> {
        let file = match &options.config {
            Some(path) => read_file(path)?,
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
        config.listen = parse(
            "--listen",
            values.listen.as_deref().unwrap_or(DEFAULT_LISTEN),
            |text| text.parse().ok(),
            "write ADDRESS:PORT, such as 0.0.0.0:7443",
        )?;
        let metrics = values.metrics_listen.as_deref();
        config.metrics_listen = match metrics.unwrap_or(DEFAULT_METRICS_LISTEN) {
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
        config.public_addresses = values.public_address;
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
        if let Some(text) = values.heartbeat_interval {
            config.heartbeat_interval = parse(
                "--heartbeat-interval",
                &text,
                |text| duration(text).filter(|d| *d >= Duration::from_millis(100)),
                "write a duration of at least 100ms, such as 20s",
            )?;
        }
        for text in &values.trusted_proxies {
            config.trusted_proxies.push(parse(
                "--trusted-proxies",
                text,
                network,
                "write an address or a network, such as 10.0.0.7 or 10.0.0.0/8",
            )?);
        }
        if let Some(text) = values.probation {
            config.probation = parse(
                "--probation",
                &text,
                |text| duration(text).filter(|d| *d >= Duration::from_secs(1)),
                "write a duration of at least 1s, such as 15s",
            )?;
        }
        config.max_strangers_per_source = values
            .max_strangers_per_source
            .unwrap_or(config.max_strangers_per_source);
        config.open_reflection = values.open_reflection;
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
        for (setting, typed, meant) in [
            (
                "--max-streams-per-token",
                values.max_streams_per_token,
                &mut most.streams,
            ),
            (
                "--max-uploads-per-token",
                values.max_uploads_per_token,
                &mut most.uploads,
            ),
            (
                "--max-plans-per-token",
                values.max_plans_per_token,
                &mut most.plans,
            ),
        ] {
            if let Some(number) = typed {
                *meant = parse(
                    setting,
                    &number.to_string(),
                    |_| (number > 0).then_some(number),
                    "write a number of at least 1",
                )?;
            }
        }
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
        config.plaintext = values.plaintext;
        if config.plaintext && !config.listen.ip().is_loopback() {
            return Err(ConfigError::PlaintextInPublic(config.listen));
        }
        Ok(config)
    }
}

impl Values {
    /// What is set here wins over `below`.
    fn over(self, below: Self) -> Self {
        Self {
            data_dir: self.data_dir.or(below.data_dir),
            listen: self.listen.or(below.listen),
            metrics_listen: self.metrics_listen.or(below.metrics_listen),
            public_address: if self.public_address.is_empty() {
                below.public_address
            } else {
                self.public_address
            },
            database_url: self.database_url.or(below.database_url),
            bundle_store: self.bundle_store.or(below.bundle_store),
            max_bundle_size: self.max_bundle_size.or(below.max_bundle_size),
            heartbeat_interval: self.heartbeat_interval.or(below.heartbeat_interval),
            log_format: self.log_format.or(below.log_format),
            plaintext: self.plaintext || below.plaintext,
            trusted_proxies: if self.trusted_proxies.is_empty() {
                below.trusted_proxies
            } else {
                self.trusted_proxies
            },
            max_strangers_per_source: self
                .max_strangers_per_source
                .or(below.max_strangers_per_source),
            probation: self.probation.or(below.probation),
            open_reflection: self.open_reflection || below.open_reflection,
            drain_deadline: self.drain_deadline.or(below.drain_deadline),
            penalty_after: self.penalty_after.or(below.penalty_after),
            max_streams_per_token: self.max_streams_per_token.or(below.max_streams_per_token),
            max_uploads_per_token: self.max_uploads_per_token.or(below.max_uploads_per_token),
            max_plans_per_token: self.max_plans_per_token.or(below.max_plans_per_token),
            stall_limit: self.stall_limit.or(below.stall_limit),
            min_protocol: self.min_protocol.or(below.min_protocol),
            metrics_retention: self.metrics_retention.or(below.metrics_retention),
        }
    }
}

fn read_file(path: &Path) -> Result<Values, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    toml::from_str(&text).map_err(|error| ConfigError::NotValid {
        path: path.to_owned(),
        why: error.to_string().trim().replace('\n', " "),
    })
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
