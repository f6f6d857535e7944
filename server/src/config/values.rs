//! All settings as they were typed: as flags, in the environment or in the file. What they mean is
//! found out in `resolve.rs`.

use std::path::{Path, PathBuf};

use clap::Args;
use kernex_proto::near;
use serde::Deserialize;

use super::ConfigError;

// No doc comment: clap would show it as what the command is about.
#[derive(Debug, Default, Clone, Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Values {
    /// Folder for certificates, tokens, the database and bundles [default: ./kernex-data].
    #[arg(long, env = "KERNEX_DATA_DIR", value_name = "FOLDER")]
    pub(super) data_dir: Option<PathBuf>,
    /// Address to listen on [default: 0.0.0.0:7443].
    #[arg(long, env = "KERNEX_LISTEN", value_name = "ADDRESS:PORT")]
    pub(super) listen: Option<String>,
    /// Address for metrics and probes, in plain HTTP; an empty value turns them off [default:
    /// 127.0.0.1:7444].
    #[arg(long, env = "KERNEX_METRICS_LISTEN", value_name = "ADDRESS:PORT")]
    pub(super) metrics_listen: Option<String>,
    /// Name or address agents and operators reach this server by; goes into its certificate. May be
    /// repeated.
    #[arg(
        long,
        env = "KERNEX_PUBLIC_ADDRESS",
        value_name = "HOST",
        value_delimiter = ','
    )]
    pub(super) public_address: Vec<String>,
    /// PEM file with a certificate from an authority of yours and those that lead to it, for
    /// callers that do not pin the server's own CA. Read again when it changes.
    #[arg(long, env = "KERNEX_TLS_CERT", value_name = "FILE")]
    pub(super) tls_cert: Option<PathBuf>,
    /// PEM file with the private key of that certificate.
    #[arg(long, env = "KERNEX_TLS_KEY", value_name = "FILE")]
    pub(super) tls_key: Option<PathBuf>,
    /// `postgres://...` or `sqlite://...` [default: kernex.db in the data folder].
    #[arg(
        long,
        env = "KERNEX_DATABASE_URL",
        value_name = "URL",
        hide_env_values = true
    )]
    pub(super) database_url: Option<String>,
    /// Folder for bundles [default: bundles/ in the data folder].
    #[arg(long, env = "KERNEX_BUNDLE_STORE", value_name = "FOLDER")]
    pub(super) bundle_store: Option<String>,
    /// Largest bundle, such as 4GiB [default: 4GiB].
    #[arg(long, env = "KERNEX_MAX_BUNDLE_SIZE", value_name = "SIZE")]
    pub(super) max_bundle_size: Option<String>,
    /// Most bytes of the files of a bundle once unpacked, such as 64GiB; agents follow it [default:
    /// 16GiB].
    #[arg(long, env = "KERNEX_MAX_UNPACKED_SIZE", value_name = "SIZE")]
    pub(super) max_unpacked_size: Option<String>,
    /// Most files, folders and links of a bundle; agents follow it [default: 250000].
    #[arg(long, env = "KERNEX_MAX_BUNDLE_ENTRIES", value_name = "N")]
    pub(super) max_bundle_entries: Option<u64>,
    /// Most unpacked bytes for each compressed byte of a bundle, counted above 1 GiB; agents follow
    /// it [default: 200].
    #[arg(long, env = "KERNEX_MAX_COMPRESSION_RATIO", value_name = "N")]
    pub(super) max_compression_ratio: Option<u64>,
    /// Time between heartbeats of an agent [default: 20s].
    #[arg(long, env = "KERNEX_HEARTBEAT_INTERVAL", value_name = "DURATION")]
    pub(super) heartbeat_interval: Option<String>,
    /// `text` or `json` [default: text].
    #[arg(long, env = "KERNEX_LOG_FORMAT", value_name = "FORMAT")]
    pub(super) log_format: Option<String>,
    /// Serve without TLS; only on a loopback address.
    #[arg(long, env = "KERNEX_PLAINTEXT")]
    pub(super) plaintext: bool,
    /// Proxy or network of proxies, such as 10.0.0.0/8, that tells where callers are by PROXY
    /// protocol version 2. May be repeated.
    #[arg(
        long,
        env = "KERNEX_TRUSTED_PROXIES",
        value_name = "CIDR",
        value_delimiter = ','
    )]
    pub(super) trusted_proxies: Vec<String>,
    /// Most connections of one address (IPv6: of one /64) on which nothing has authenticated; 0 for
    /// no limit [default: 256].
    #[arg(long, env = "KERNEX_MAX_STRANGERS_PER_SOURCE", value_name = "N")]
    pub(super) max_strangers_per_source: Option<usize>,
    /// How long a connection has until something on it has authenticated [default: 15s].
    #[arg(long, env = "KERNEX_PROBATION", value_name = "DURATION")]
    pub(super) probation: Option<String>,
    /// Answer gRPC reflection without a token.
    #[arg(long, env = "KERNEX_OPEN_REFLECTION")]
    pub(super) open_reflection: bool,
    /// How long a stop may take before everything left is dropped [default: 10s].
    #[arg(long, env = "KERNEX_DRAIN_DEADLINE", value_name = "DURATION")]
    pub(super) drain_deadline: Option<String>,
    /// Failures of a bundle in a row after which a device gets it by an explicit retry only; 0 for
    /// never [default: 3].
    #[arg(long, env = "KERNEX_PENALTY_AFTER", value_name = "N")]
    pub(super) penalty_after: Option<u32>,
    /// Watches and downloads a token may have open at a time [default: 16].
    #[arg(long, env = "KERNEX_MAX_STREAMS_PER_TOKEN", value_name = "N")]
    pub(super) max_streams_per_token: Option<u32>,
    /// Uploads a token may have under way at a time [default: 4].
    #[arg(long, env = "KERNEX_MAX_UPLOADS_PER_TOKEN", value_name = "N")]
    pub(super) max_uploads_per_token: Option<u32>,
    /// Plans a token may have devices asked about at a time [default: 2].
    #[arg(long, env = "KERNEX_MAX_PLANS_PER_TOKEN", value_name = "N")]
    pub(super) max_plans_per_token: Option<u32>,
    /// Time without a byte taken after which a stream is ended, and its connection after as long
    /// again [default: 30s].
    #[arg(long, env = "KERNEX_STALL_LIMIT", value_name = "DURATION", hide = true)]
    pub(super) stall_limit: Option<String>,
    /// Oldest revision of the session protocol that agents may prove themselves by; 2 refuses
    /// older agents [default: 1].
    #[arg(long, env = "KERNEX_MIN_PROTOCOL", value_name = "REVISION")]
    pub(super) min_protocol: Option<u32>,
    /// How long the audit is kept [default: 365d].
    #[arg(long, env = "KERNEX_AUDIT_RETENTION", value_name = "DURATION")]
    pub(super) audit_retention: Option<String>,
    /// How long sampled heartbeats are kept [default: 7d].
    #[arg(long, env = "KERNEX_METRICS_RETENTION", value_name = "DURATION")]
    pub(super) metrics_retention: Option<String>,
}

impl Values {
    /// What is set here wins over `below`.
    pub(super) fn over(self, below: Self) -> Self {
        Self {
            data_dir: self.data_dir.or(below.data_dir),
            listen: self.listen.or(below.listen),
            metrics_listen: self.metrics_listen.or(below.metrics_listen),
            public_address: if self.public_address.is_empty() {
                below.public_address
            } else {
                self.public_address
            },
            tls_cert: self.tls_cert.or(below.tls_cert),
            tls_key: self.tls_key.or(below.tls_key),
            database_url: self.database_url.or(below.database_url),
            bundle_store: self.bundle_store.or(below.bundle_store),
            max_bundle_size: self.max_bundle_size.or(below.max_bundle_size),
            max_unpacked_size: self.max_unpacked_size.or(below.max_unpacked_size),
            max_bundle_entries: self.max_bundle_entries.or(below.max_bundle_entries),
            max_compression_ratio: self.max_compression_ratio.or(below.max_compression_ratio),
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
            audit_retention: self.audit_retention.or(below.audit_retention),
            metrics_retention: self.metrics_retention.or(below.metrics_retention),
        }
    }

    /// Reads the settings of a file.
    pub(super) fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        let not_valid = |why: String| ConfigError::NotValid {
            path: path.to_owned(),
            why,
        };
        let damaged =
            |error: toml::de::Error| not_valid(error.to_string().trim().replace('\n', " "));
        let table: toml::Table = toml::from_str(&text).map_err(damaged)?;
        let known = settings(|argument| Some(argument.get_id().as_str().to_owned()));
        let names = table.keys().map(String::as_str);
        let strangers = near::strangers(names, known.iter().map(String::as_str), "");
        if !strangers.is_empty() {
            let all: Vec<String> = strangers.iter().map(ToString::to_string).collect();
            return Err(not_valid(all.join("; ")));
        }
        toml::from_str(&text).map_err(damaged)
    }
}

/// Something of each setting.
pub(super) fn settings(of: impl Fn(&clap::Arg) -> Option<String>) -> Vec<String> {
    let command = Values::augment_args(clap::Command::new("kernex-server"));
    command.get_arguments().filter_map(of).collect()
}
