//! The command line of the agent. Its comments are the help texts, and the names of its settings
//! are those of the file too.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use kernex_proto::{manifest::Manifest, telemetry::LogFormat};
use serde::{Deserialize, Serialize};

/// The agent of Kernex: holds a session with the control plane and runs what it sends.
#[derive(Debug, Parser)]
#[command(name = "kernex-agent", version)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// TOML file with the same settings as the flags.
    #[arg(long, global = true, env = "KERNEX_AGENT_CONFIG", value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Folder for the key, the journal and the bundles [default: /var/lib/kernex-agent].
    #[arg(
        long,
        global = true,
        env = "KERNEX_AGENT_STATE_DIR",
        value_name = "DIR"
    )]
    pub(super) state_dir: Option<PathBuf>,
    /// Address of the control plane, e.g. https://kernex.example.com:7443. May be repeated, or hold
    /// several with commas between them, for a control plane with replicas: the next one is used
    /// when one cannot be reached.
    #[arg(
        long,
        global = true,
        env = "KERNEX_AGENT_SERVER",
        value_name = "URL",
        value_delimiter = ','
    )]
    pub(super) server: Vec<String>,
    /// HTTP proxy on the way to the control plane, e.g. http://proxy.example.com:3128; an empty one
    /// is none [default: `https_proxy` or `all_proxy` of the environment, but for what `no_proxy`
    /// names]. A user's name and password may stand in it; everybody on this machine can read a
    /// command line, so put it into the environment or the file then.
    #[arg(
        long,
        global = true,
        env = "KERNEX_AGENT_PROXY",
        value_name = "URL",
        hide_env_values = true
    )]
    pub(super) proxy: Option<String>,
    /// Enrolment token, from `kernexctl enrollment create`. Everybody on this machine can read a
    /// command line: prefer --token-file.
    #[arg(
        long,
        global = true,
        env = "KERNEX_AGENT_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true
    )]
    pub(super) token: Option<String>,
    /// File with the enrolment token, `-` for standard input. Without it, the systemd credential
    /// `kernex-agent.token` is used where there is one.
    #[arg(
        long,
        global = true,
        env = "KERNEX_AGENT_TOKEN_FILE",
        value_name = "FILE",
        conflicts_with = "token"
    )]
    pub(super) token_file: Option<PathBuf>,
    /// Requested device name [default: the host name].
    #[arg(long, global = true, env = "KERNEX_AGENT_NAME", value_name = "NAME")]
    pub(super) name: Option<String>,
    /// Most seconds a script may run, whatever its manifest or the server's configuration says
    /// [default: 300, which the server may change].
    #[arg(
        long,
        global = true,
        env = "KERNEX_AGENT_MAX_SCRIPT_SECONDS",
        value_name = "SECONDS"
    )]
    pub(super) max_script_seconds: Option<u64>,
    /// Releases kept beside the current one; the server may ask for fewer, never for more [default:
    /// 2, which the server may change].
    #[arg(
        long,
        global = true,
        env = "KERNEX_AGENT_KEEP_RELEASES",
        value_name = "N"
    )]
    pub(super) keep_releases: Option<usize>,
    /// Most seconds between two tries to connect, drawn at random up to it [default: 60].
    #[arg(
        long,
        global = true,
        env = "KERNEX_AGENT_MAX_RECONNECT_SECONDS",
        value_name = "SECONDS"
    )]
    pub(super) max_reconnect_seconds: Option<u64>,
    /// Most bytes a second of a download, e.g. 500KiB [default: no limit].
    #[arg(
        long,
        global = true,
        env = "KERNEX_AGENT_MAX_DOWNLOAD_RATE",
        value_name = "SIZE"
    )]
    pub(super) max_download_rate: Option<String>,
    /// Most disk for archives of the bundles whose releases are kept, e.g. 2GiB, or 0 for none.
    /// What is there is not downloaded again; it goes first when the disk is short [default: a
    /// tenth of the state folder's file system].
    #[arg(
        long,
        global = true,
        env = "KERNEX_AGENT_MAX_ARCHIVE_SPACE",
        value_name = "SIZE"
    )]
    pub(super) max_archive_space: Option<String>,
    /// Whether scripts can never get more rights than the agent has, by sudo for example:
    /// `manifest` lets the bundle's manifest say so, `always` and `never` are said here [default:
    /// manifest].
    #[arg(
        long,
        global = true,
        env = "KERNEX_AGENT_NO_NEW_PRIVS",
        value_enum,
        value_name = "WHEN"
    )]
    pub(super) no_new_privs: Option<NoNewPrivs>,
    /// What to log, e.g. `info` or `kernex_agent=debug`.
    #[arg(
        long,
        global = true,
        env = "KERNEX_AGENT_LOG",
        value_name = "FILTER",
        default_value = "info"
    )]
    pub log: String,
    /// How to log.
    #[arg(
        long,
        global = true,
        env = "KERNEX_AGENT_LOG_FORMAT",
        value_enum,
        default_value = "text"
    )]
    log_format: LogStyle,
}

/// What the agent can be told to do.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Bind this machine's key to a device of the control plane. Safe to repeat.
    Enroll {
        /// With a new key, as a device of its own: for a device that was deleted, or whose key was
        /// replaced. The old journal is set aside; what is in `bundles` stays.
        #[arg(long)]
        new_key: bool,
    },
    /// Hold the session and run what the server sends; enrols first when needed and a token is
    /// given.
    Run {
        /// Forget, at this start, that a newer revision of the session protocol was spoken before:
        /// for a control plane that was put back to an older version. Do not leave it in place: as
        /// long as it is there, somebody between this device and the control plane can make them
        /// speak the older one.
        #[arg(long)]
        allow_downgrade: bool,
    },
    /// Read flags, environment and file, say what is wrong with them, and change nothing.
    CheckConfig,
    /// Show what the journal of a stopped agent remembers, one JSON object per attempt.
    Journal,
    /// Show how the agent on this machine is: enrolled, running, connected, and what it runs; exits
    /// 1 unless all is well. It may run beside the agent.
    Status {
        /// As one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Look for what keeps this machine from its control plane: state folder, disk, enrolment,
    /// clock, name, network, TLS; exits 1 when something is wrong. It may run beside the agent.
    Doctor,
    /// Write what somebody who helps has to know into a file, without secrets: version, settings,
    /// what `status` and `doctor` say, attempts, releases, disk. It may run beside the agent.
    #[command(after_help = "Examples:
  kernex-agent support-bundle
  kernex-agent support-bundle --output /tmp/edge-1.json")]
    SupportBundle {
        /// File to write, as JSON.
        #[arg(long, value_name = "FILE", default_value = "kernex-agent-support.json")]
        output: PathBuf,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogStyle {
    Text,
    Json,
}

/// Whether scripts, and what they start, can never get more rights than the agent has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoNewPrivs {
    /// As the manifest says: they cannot, unless it asks for it.
    #[default]
    Manifest,
    /// They cannot, whatever the manifest says.
    Always,
    /// They can, whatever the manifest says.
    Never,
}

impl NoNewPrivs {
    /// Whether the scripts of a bundle may get more rights.
    pub(crate) fn allows_more(self, manifest: &Manifest) -> bool {
        match self {
            Self::Manifest => manifest.allows_new_privs(),
            Self::Always => false,
            Self::Never => true,
        }
    }
}

impl Args {
    /// How to log.
    #[must_use]
    pub fn log_format(&self) -> LogFormat {
        match self.log_format {
            LogStyle::Text => LogFormat::Text,
            LogStyle::Json => LogFormat::Json,
        }
    }
}
