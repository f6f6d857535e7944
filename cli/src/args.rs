//! The command line as it is typed; `commands` does what it means.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::complete;

pub(crate) mod audit;
pub(crate) mod bundle;
pub(crate) mod config;
pub(crate) mod context;
pub(crate) mod deploy;
pub(crate) mod deployment;
#[cfg(feature = "dev")]
pub(crate) mod dev;
pub(crate) mod device;
pub(crate) mod enrollment;
pub(crate) mod event;
mod examples;
pub(crate) mod listing;
pub(crate) mod order;
mod output;
pub(crate) mod pack;
pub(crate) mod rollback;
pub(crate) mod rollout;
pub(crate) mod script_output;
pub(crate) mod times;
mod timing;
pub(crate) mod token;
mod values;
pub(crate) mod verbs;
mod words;

pub(crate) use examples::with_examples;
pub(crate) use output::OutputArg;
pub(crate) use values::{LabelChange, parse_duration, parse_label_change};

const AFTER_HELP: &str = "\
Exit codes:
  0  ok                         4  not allowed
  1  error                      5  not found, or in conflict
  2  wrong usage                6  waiting took too long
  3  the deployment failed      7  the control plane cannot be reached
                                8  an operator has to decide
  130  Ctrl-C                   143  SIGTERM

Environment:
  KERNEXCTL_CONFIG  configuration file (default ~/.config/kernex/config.toml)
  KERNEX_CONTEXT    context to use when --context is not given
  KERNEX_SERVER, KERNEX_TOKEN, KERNEX_CA
                    server URL, token and CA file, instead of a context
  https_proxy, no_proxy
                    proxy to the server, and what needs none; KERNEX_PROXY wins
  COLUMNS           width to cut tables to (default: that of the terminal)
  NO_COLOR          no colours
  CLICOLOR_FORCE    colours, also in a pipe";

fn after_help() -> String {
    let mut help = AFTER_HELP.to_owned();
    if cfg!(feature = "dev") {
        help.push_str("\n\nTry everything on this machine, with nothing to set up:  kernexctl dev");
    }
    help
}

/// Operates a Kernex fleet: enrols devices, pushes bundles, deploys them and shows what came of it.
#[derive(Debug, Parser)]
#[command(name = "kernexctl", version, after_help = after_help(), propagate_version = true)]
pub(crate) struct Cli {
    /// Context (server and token) to use
    #[arg(long, global = true, value_name = "NAME", add = complete::contexts())]
    pub(crate) context: Option<String>,
    /// HTTP proxy to reach the server through; an empty text means none [default: `https_proxy` of
    /// the environment, unless `no_proxy` names the server]
    #[arg(
        long,
        global = true,
        env = "KERNEX_PROXY",
        value_name = "URL",
        hide_env_values = true
    )]
    pub(crate) proxy: Option<String>,
    #[command(flatten)]
    _output: output::Everywhere,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands: nouns with verbs of their own, and verbs that stand alone.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the whole fleet in a few lines: status of devices, what they run, open and failed
    /// deployments
    #[command(visible_alias = "fleet")]
    Status {
        /// At most this many of each list
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
        limit: u32,
        #[command(flatten)]
        output: OutputArg,
    },
    /// Which control plane to talk to
    #[command(subcommand, alias = "contexts")]
    Context(context::ContextCommand),
    /// Tokens that let devices in
    #[command(subcommand, alias = "enrollments")]
    Enrollment(enrollment::EnrollmentCommand),
    /// Devices: who is there, how they are, what they run
    #[command(subcommand, alias = "devices")]
    Device(device::DeviceCommand),
    /// Bundles: make, push and fetch them
    #[command(subcommand, alias = "bundles")]
    Bundle(bundle::BundleCommand),
    /// Put a bundle on devices
    Deploy(Box<deploy::DeployArgs>),
    /// Settings of agents: heartbeats, limits, logs and values for scripts
    #[command(subcommand, alias = "configs")]
    Config(config::ConfigCommand),
    /// Deployments and what became of them
    #[command(subcommand, alias = "deployments")]
    Deployment(deployment::DeploymentCommand),
    /// What the scripts of a device's last run printed, or those of a deployment
    Output(script_output::ScriptOutputArgs),
    /// Tokens of operators: who may do what
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Who changed what, and who was refused
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// What happens in the fleet, as it happens
    #[command(subcommand, alias = "events")]
    Event(event::EventCommand),
    /// The verb first: list things, or show one
    #[command(subcommand, visible_aliases = ["describe", "list", "ls"])]
    Get(verbs::GetCommand),
    /// The verb first: delete one thing
    #[command(subcommand, visible_alias = "rm")]
    Delete(verbs::DeleteCommand),
    /// Wait until a device or a deployment is as it should be
    #[command(subcommand)]
    Wait(verbs::WaitCommand),
    /// Explain a word of a table or an error, e.g. superseded or disk_full
    Explain {
        /// The word; without one, all words are listed
        #[arg(add = complete::words())]
        word: Option<String>,
    },
    /// Check each step between this machine and the server: name, network, TLS, clock, token and
    /// version
    Doctor {
        #[command(flatten)]
        output: OutputArg,
    },
    /// Collect what a helper has to know in one file, without secrets
    SupportBundle {
        /// File to write, as JSON
        #[arg(default_value = "kernex-support.json")]
        file: PathBuf,
    },
    /// Show the name and the role that the server knows you by
    Whoami {
        #[command(flatten)]
        output: OutputArg,
    },
    /// Show the versions of this program and of the server, and whether they work together
    Version {
        /// Do not ask the server
        #[arg(long)]
        client: bool,
        #[command(flatten)]
        output: OutputArg,
    },
    /// Run a whole fleet on this machine: a control plane and some devices, with a first deployment
    #[cfg(feature = "dev")]
    Dev(dev::DevArgs),
    /// Not part of this build
    #[cfg(not(feature = "dev"))]
    #[command(hide = true)]
    Dev {
        /// Its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        _args: Vec<std::ffi::OsString>,
    },
    /// Print a completion script for a shell; it asks the server for names
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write a manual page for every command
    Man {
        /// Folder to write them into
        dir: PathBuf,
    },
}

impl Command {
    /// Name of the command in traces.
    pub(crate) const fn title(&self) -> &'static str {
        match self {
            Self::Status { .. } => "kernexctl status",
            Self::Context(_) => "kernexctl context",
            Self::Enrollment(_) => "kernexctl enrollment",
            Self::Device(_) => "kernexctl device",
            Self::Bundle(_) => "kernexctl bundle",
            Self::Deploy(_) => "kernexctl deploy",
            Self::Config(_) => "kernexctl config",
            Self::Deployment(_) => "kernexctl deployment",
            Self::Output(_) => "kernexctl output",
            Self::Token(_) => "kernexctl token",
            Self::Audit(_) => "kernexctl audit",
            Self::Event(_) => "kernexctl event",
            Self::Get(_) => "kernexctl get",
            Self::Delete(_) => "kernexctl delete",
            Self::Wait(_) => "kernexctl wait",
            Self::Explain { .. } => "kernexctl explain",
            Self::SupportBundle { .. } => "kernexctl support-bundle",
            Self::Doctor { .. } => "kernexctl doctor",
            Self::Whoami { .. } => "kernexctl whoami",
            Self::Version { .. } => "kernexctl version",
            Self::Man { .. } => "kernexctl man",
            Self::Dev { .. } => "kernexctl dev",
            Self::Completion { .. } => "kernexctl completion",
        }
    }
}

/// Whether the user has agreed in advance.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Consent {
    /// Do not ask for confirmation
    #[arg(short, long)]
    pub(crate) yes: bool,
}

#[cfg(test)]
mod tests;
