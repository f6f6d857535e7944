//! The settings of the server: the command line, and what it means. Flags win over `KERNEX_*`,
//! those over the file, and that over the defaults.
//!
//! ```text
//! flags, environment, file -> values (as typed) -> resolve (checked once) -> Config (as meant)
//! ```

mod resolve;
mod units;
mod values;

use std::{
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use ipnet::IpNet;
use kernex_proto::{archive::Limits, near, telemetry::LogFormat};

use self::values::Values;
use crate::{
    domain::penalty,
    edge::{answers::AnswerLimits, tls::GivenFiles},
    store::Retention,
};

/// The folder of bundles in the data folder, unless they are kept elsewhere.
pub(crate) const BUNDLES: &str = "bundles";

/// Largest bundle by default: 4 GiB.
pub const DEFAULT_MAX_BUNDLE_SIZE: u64 = 4 << 30;

/// Strangers of one source by default. A fleet behind one address comes back in turns of so many,
/// each of which takes some tenths of a second.
const DEFAULT_STRANGERS: usize = 256;
/// Enough for a slow device on a slow line to prove who it is.
const DEFAULT_PROBATION: Duration = Duration::from_secs(15);

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
    #[error("cannot read the configuration file {}", path.display())]
    Unreadable {
        path: PathBuf,
        source: std::io::Error,
    },
    /// The file is not TOML, or has a setting that does not exist.
    #[error("the configuration file {} is not valid: {why}", path.display())]
    NotValid {
        path: PathBuf,
        /// The line and the reason.
        why: String,
    },
    #[error("`{value}` is not valid for {setting}: {why}")]
    BadValue {
        /// The setting, as a flag.
        setting: &'static str,
        /// As it was typed.
        value: String,
        /// What to write instead.
        why: String,
    },
    /// A certificate without its key, a key without its certificate, or either with --plaintext.
    #[error("--tls-cert and --tls-key belong together, and --plaintext needs neither")]
    HalfCertificate,
    /// Plaintext on an address that others can reach.
    #[error("--plaintext is allowed on a loopback address only, and {0} is not one")]
    PlaintextInPublic(SocketAddr),
}

/// The settings as they are meant.
#[derive(Debug, Clone)]
pub struct Config {
    /// Folder for certificates, tokens, the default database and bundles.
    pub data_dir: PathBuf,
    /// `postgres://...` or `sqlite://...`.
    pub database_url: String,
    pub bundles: BundleConfig,
    pub network: NetworkConfig,
    pub heartbeat_interval: Duration,
    /// Oldest revision of the session protocol that agents may prove themselves by.
    pub min_protocol: u32,
    pub log_format: LogFormat,
    /// Time after which a stop drops what is left.
    pub drain_deadline: Duration,
    /// Failures of a bundle in a row after which a device is left out; 0 for never.
    pub penalty_after: u32,
    /// What callers may have under way, and how long they may go without reading.
    pub answers: AnswerLimits,
    /// How long events, audit entries and samples are kept.
    pub retention: Retention,
    /// This is a program of its own, and not part of another. The first start prints the CA's pin
    /// and the next command to standard output, and the service manager is told how the server is.
    pub announce: bool,
}

/// Where bundles are, and which are taken.
#[derive(Debug, Clone)]
pub struct BundleConfig {
    /// The folder that they are in.
    pub store: String,
    /// Largest bundle in bytes.
    pub max_size: u64,
    /// What a bundle may hold, here and on devices.
    pub archive_limits: Limits,
}

/// Addresses, and who is answered there.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// Where to listen. The listener is bound already; this names it in messages.
    pub listen: SocketAddr,
    /// Where to answer scrapes and probes; `None` for nowhere.
    pub metrics_listen: Option<SocketAddr>,
    /// Further names for the certificate.
    pub public_addresses: Vec<String>,
    /// A certificate that somebody else made.
    pub tls: Option<GivenFiles>,
    pub plaintext: bool,
    /// Proxies that are believed when they say where a caller is.
    pub trusted_proxies: Vec<IpNet>,
    /// Limits of connections on which nothing has authenticated.
    pub strangers: StrangerConfig,
    /// Whether everybody may ask for the schema.
    pub open_reflection: bool,
}

impl NetworkConfig {
    /// Names of this server beside those of its machine: the ones it was told, and the address it
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
            bundles: BundleConfig {
                store: data_dir.join(BUNDLES).to_string_lossy().into_owned(),
                max_size: DEFAULT_MAX_BUNDLE_SIZE,
                archive_limits: Limits::default(),
            },
            network: NetworkConfig {
                listen: SocketAddr::from(([127, 0, 0, 1], 0)),
                metrics_listen: None,
                public_addresses: Vec::new(),
                tls: None,
                plaintext: false,
                trusted_proxies: Vec::new(),
                strangers: StrangerConfig {
                    max_per_source: DEFAULT_STRANGERS,
                    probation: DEFAULT_PROBATION,
                },
                open_reflection: false,
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
            && !is_of_kubernetes(name)
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

/// Whether Kubernetes makes such a variable, which it does for each service beside a container.
fn is_of_kubernetes(name: &str) -> bool {
    let mut ports = name
        .match_indices("_PORT_")
        .map(|(at, text)| at + text.len());
    name.contains("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || ports.any(|at| name[at..].starts_with(|next: char| next.is_ascii_digit()))
}

fn sqlite_url(data_dir: &Path) -> String {
    format!("sqlite://{}", data_dir.join("kernex.db").display())
}

#[cfg(test)]
mod tests;
