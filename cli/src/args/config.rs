//! `config ...` as it is typed.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::{
    Consent, OutputArg,
    values::{parse_duration, parse_value},
};

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Make or replace a configuration and push it at once; what is left out is not kept
    Set(Box<SetArgs>),
    /// List configurations
    List {
        #[command(flatten)]
        output: OutputArg,
    },
    /// Show the configuration that applies to a device, and whether the device has applied it
    Get {
        /// Device name or id
        device: String,
        #[command(flatten)]
        output: OutputArg,
    },
    /// Remove a configuration; it no longer applies to its devices
    Delete {
        /// Name of the configuration
        name: String,
        #[command(flatten)]
        consent: Consent,
    },
}

#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// Name of the configuration
    pub(crate) name: String,
    /// For the devices with these labels, e.g. 'site=berlin'; '*' means every device
    #[arg(long, value_name = "SELECTOR", required_unless_present = "device")]
    pub(crate) to: Option<String>,
    /// For one device, by name or id; wins over configurations with a selector
    #[arg(long, value_name = "DEVICE", conflicts_with = "to")]
    pub(crate) device: Option<String>,
    /// Time between heartbeats
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    pub(crate) heartbeat: Option<Duration>,
    /// Time without a message from the server after which the session counts as dead
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    pub(crate) silence: Option<Duration>,
    /// What agents log, e.g. 'info' or 'kernex_agent=debug'
    #[arg(long, value_name = "FILTER")]
    pub(crate) log: Option<String>,
    /// Most time a script may take, whatever its manifest says
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    pub(crate) max_script: Option<Duration>,
    /// Time a script may tidy up between SIGTERM and SIGKILL
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    pub(crate) script_grace: Option<Duration>,
    /// Releases kept beside the current one
    #[arg(long, value_name = "N")]
    pub(crate) keep_releases: Option<u32>,
    /// A value for scripts, which find it as KERNEX_CONFIG_<NAME> (repeatable)
    #[arg(long = "value", value_parser = parse_value, value_name = "NAME=VALUE")]
    pub(crate) values: Vec<(String, String)>,
    /// Replace only this revision
    #[arg(long, value_name = "N")]
    pub(crate) revision: Option<u64>,
    #[command(flatten)]
    pub(crate) output: OutputArg,
}
