//! The command line as it is typed; `commands` does what it means.

use std::{path::PathBuf, time::Duration};

use clap::{ArgGroup, Args, Parser, Subcommand};

use crate::complete;

pub(crate) mod audit;
pub(crate) mod config;
pub(crate) mod deployment;
pub(crate) mod device;
pub(crate) mod event;
mod examples;
pub(crate) mod listing;
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
use values::parse_label;
pub(crate) use values::{LabelChange, parse_duration, parse_label_change};

const AFTER_HELP: &str = "\
Exit codes:
  0  ok                         4  not allowed
  1  error                      5  not found, or in conflict
  2  wrong usage                6  waiting took too long
  3  the deployment failed      7  the control plane cannot be reached
                                8  it waits for an operator: paused, or not approved

Environment:
  KERNEXCTL_CONFIG              configuration file (default ~/.config/kernex/config.toml)
  KERNEX_CONTEXT                context to use when --context is not given
  KERNEX_SERVER, KERNEX_TOKEN, KERNEX_CA
                                server URL, token and CA file, instead of a context
  https_proxy, no_proxy         proxy to the server, and what needs none; KERNEX_PROXY wins
  COLUMNS                       width that tables are cut to (default: that of the terminal)
  NO_COLOR                      no colours";

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
    /// HTTP proxy on the way to the server; an empty one is none [default: `https_proxy` of the
    /// environment, but for what `no_proxy` names]
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

/// The nouns, and the three verbs that stand alone.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The whole fleet in a few lines: how devices are, what they run, what is open and what failed
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
    Context(ContextCommand),
    /// Tokens that let devices in
    #[command(subcommand, alias = "enrollments")]
    Enrollment(EnrollmentCommand),
    /// Devices: who is there, how they are, what they run
    #[command(subcommand, alias = "devices")]
    Device(DeviceCommand),
    /// Bundles: make, push and fetch them
    #[command(subcommand, alias = "bundles")]
    Bundle(BundleCommand),
    /// Put a bundle on devices
    Deploy(Box<DeployArgs>),
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
    /// Say what a word means that a table or an error shows, e.g. superseded or disk_full
    Explain {
        /// The word; without one, all of them
        word: Option<String>,
    },
    /// Look for what is wrong between this machine and the server: name, network, TLS, clock, token
    /// and version
    Doctor {
        #[command(flatten)]
        output: OutputArg,
    },
    /// Write what somebody who helps has to know into a file, without secrets
    SupportBundle {
        /// File to write, as JSON
        #[arg(default_value = "kernex-support.json")]
        file: PathBuf,
    },
    /// Who the server takes you for
    Whoami {
        #[command(flatten)]
        output: OutputArg,
    },
    /// The versions of this program and of the server, and whether they belong together
    Version {
        /// Do not ask the server
        #[arg(long)]
        client: bool,
        #[command(flatten)]
        output: OutputArg,
    },
    /// Run a whole fleet on this machine: a control plane and some devices, with a first deployment
    #[cfg(feature = "dev")]
    Dev(DevArgs),
    /// Not part of this build
    #[cfg(not(feature = "dev"))]
    #[command(hide = true)]
    Dev {
        /// Its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        _args: Vec<std::ffi::OsString>,
    },
    /// Print a script that completes commands, and names by asking the server
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

/// Consent given in advance.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Consent {
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
}

/// `context ...`
#[derive(Debug, Subcommand)]
pub(crate) enum ContextCommand {
    /// Store a server and a token under a name
    #[command(group = ArgGroup::new("secret").required(true).args(["token_file", "token"]))]
    Add {
        /// Name of the context
        name: String,
        /// Take the place of a context of this name for another server
        #[arg(long)]
        replace: bool,
        /// Server URL, e.g. https://kernex.example:7443
        #[arg(long, value_name = "URL")]
        server: String,
        /// The server's `ca.pem`; its content is stored. `system` for the authorities that this
        /// machine trusts, where the server was given a certificate of one of them
        #[arg(long, value_name = "FILE")]
        ca: Option<PathBuf>,
        /// File with the operator token; its content is stored
        #[arg(long, value_name = "FILE")]
        token_file: Option<PathBuf>,
        /// The operator token itself (a file keeps it out of the shell's history)
        #[arg(long, value_name = "TOKEN")]
        token: Option<String>,
    },
    /// Make a context the current one
    Use {
        /// Name of the context
        #[arg(add = complete::contexts())]
        name: String,
    },
    /// Write a context as a file for clients in other languages: server, pin of its CA, token
    Export {
        /// Name of the context (default: the current one)
        name: Option<String>,
        /// Where to write it, readable for you alone (default: standard output)
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// List contexts
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        output: OutputArg,
    },
    /// Print the name of the context that is used
    Current,
    /// Give a context another name
    Rename {
        /// Its name
        #[arg(add = complete::contexts())]
        name: String,
        /// Its new name
        to: String,
    },
    /// Forget a context and its token
    #[command(visible_alias = "rm")]
    Delete {
        /// Name of the context
        #[arg(add = complete::contexts())]
        name: String,
        #[command(flatten)]
        consent: Consent,
    },
}

/// `enrollment ...`
#[derive(Debug, Subcommand)]
pub(crate) enum EnrollmentCommand {
    /// Make a token that lets devices in; its text is shown once
    Create {
        /// How many devices it may let in
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        uses: u32,
        /// How long it works, e.g. 30m, 12h, 7d
        #[arg(long, default_value = "1d", value_parser = parse_duration, value_name = "DURATION")]
        ttl: Duration,
        /// Label each device gets (repeatable)
        #[arg(long = "label", value_parser = parse_label, value_name = "KEY=VALUE")]
        labels: Vec<(String, String)>,
        /// Let one new key take over this device, e.g. after a re-imaged disk
        #[arg(long, value_name = "DEVICE", conflicts_with = "labels")]
        replace: Option<String>,
        /// Have devices know the server by a certificate of this name from an authority that they
        /// trust (`--tls-cert` of the server), instead of by the pin of its CA
        #[arg(long, value_name = "NAME")]
        webpki: Option<String>,
        #[command(flatten)]
        output: OutputArg,
    },
    /// List tokens, without their secrets
    List {
        #[command(flatten)]
        output: OutputArg,
    },
    /// Revoke a token; devices that used it stay
    Revoke {
        /// Token id
        id: String,
        #[command(flatten)]
        consent: Consent,
    },
}

/// `device ...`
#[derive(Debug, Subcommand)]
pub(crate) enum DeviceCommand {
    /// List devices
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        filter: device::DeviceFilterArgs,
        #[command(flatten)]
        list: listing::ListArgs,
        /// Stay and show what changes, until interrupted; in a pipe and with -o json a line for
        /// each change
        #[arg(short, long, conflicts_with_all = ["limit", "sort", "columns", "no_headers"])]
        watch: bool,
        #[command(flatten)]
        output: OutputArg,
    },
    /// Show devices
    #[command(visible_aliases = ["describe", "show"])]
    Get {
        /// Name or id (repeatable)
        #[arg(required = true, value_name = "DEVICE", add = complete::devices())]
        devices: Vec<String>,
        #[command(flatten)]
        output: OutputArg,
    },
    /// Set and remove labels of one device, or of all that match
    Label {
        /// Name or id; not with --selector
        #[arg(value_name = "DEVICE", required_unless_present = "selector", add = complete::devices())]
        device: Option<String>,
        /// `key=value` sets, `key-` removes
        #[arg(value_name = "KEY=VALUE|KEY-")]
        changes: Vec<String>,
        /// Every device with these labels, e.g. 'site=berlin'; '*' means every device
        #[arg(short = 'l', long, value_name = "SELECTOR")]
        selector: Option<String>,
        #[command(flatten)]
        consent: Consent,
        #[command(flatten)]
        output: OutputArg,
    },
    /// Show sampled heartbeats, newest first
    Metrics {
        /// Name or id
        #[arg(add = complete::devices())]
        device: String,
        /// At most this many
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
        #[command(flatten)]
        output: OutputArg,
    },
    /// Show what was deployed to a device, newest first
    History {
        /// Name or id
        #[arg(add = complete::devices())]
        device: String,
        /// At most this many
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
        #[command(flatten)]
        output: OutputArg,
    },
    /// Decide a conflict: the copy that connected last stays, the others need new keys
    Resolve {
        /// Name or id
        #[arg(add = complete::devices())]
        device: String,
        /// Accept an older revision of the session protocol than before, once, as after an older
        /// agent was put on the device; works without a conflict as well
        #[arg(long)]
        allow_downgrade: bool,
        #[command(flatten)]
        consent: Consent,
        #[command(flatten)]
        output: OutputArg,
    },
    /// Delete a device: its key is revoked and its open work cancelled
    #[command(visible_alias = "rm")]
    Delete {
        /// Name or id
        #[arg(add = complete::devices())]
        device: String,
        #[command(flatten)]
        consent: Consent,
    },
}

/// `bundle ...`
#[derive(Debug, Subcommand)]
pub(crate) enum BundleCommand {
    /// Write a small example to start from
    Init {
        /// Folder to write into
        #[arg(default_value = ".")]
        dir: PathBuf,
        /// Name of the bundle (default: the folder's name)
        #[arg(long)]
        name: Option<String>,
    },
    /// Make an archive of a folder; the same files always give the same bytes
    Pack {
        /// Folder with a manifest.json
        dir: PathBuf,
        #[command(flatten)]
        file: output::FileArg,
        #[command(flatten)]
        args: pack::PackArgs,
    },
    /// Upload an archive, or a folder after packing it
    Push {
        /// Archive or folder
        path: PathBuf,
        /// Name on the server, instead of the manifest's
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        args: pack::PackArgs,
        #[command(flatten)]
        output: OutputArg,
    },
    /// Download an archive
    Pull {
        /// name:version, a digest or its first 12 digits, or a name for its newest version
        #[arg(add = complete::bundles())]
        bundle: String,
        #[command(flatten)]
        file: output::FileArg,
    },
    /// List bundles, newest first
    #[command(visible_alias = "ls")]
    List {
        /// Only bundles of this name
        #[arg(long, default_value = "", hide_default_value = true)]
        name: String,
        #[command(flatten)]
        list: listing::ListArgs,
        #[command(flatten)]
        output: OutputArg,
    },
    /// Show one bundle
    #[command(visible_aliases = ["describe", "show"])]
    Get {
        /// name:version, a digest or its first 12 digits, or a name for its newest version
        #[arg(add = complete::bundles())]
        bundle: String,
        #[command(flatten)]
        output: OutputArg,
    },
    /// Delete a bundle, or with --gc every bundle, that no device and no deployment needs
    #[command(visible_alias = "rm")]
    Delete {
        /// name:version, or a digest or its first 12 digits
        #[arg(required_unless_present = "gc", conflicts_with = "gc", add = complete::bundles())]
        bundle: Option<String>,
        /// Every bundle that nothing needs
        #[arg(long)]
        gc: bool,
        /// With --gc, leave alone what was pushed less than this ago
        #[arg(long, default_value = "1d", value_parser = parse_duration, value_name = "DURATION", requires = "gc")]
        older_than: Duration,
        #[command(flatten)]
        consent: Consent,
    },
}

/// `deploy ...`
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("where").required(true).multiple(true).args(["to", "devices"]))]
pub(crate) struct DeployArgs {
    /// name:version, a digest or its first 12 digits, a local archive or folder that is pushed
    /// first, or a name for its newest version
    #[arg(add = complete::bundles())]
    pub(crate) bundle: String,
    /// Devices with these labels, e.g. 'site=berlin,!canary'; '*' means every device
    #[arg(long, value_name = "SELECTOR")]
    pub(crate) to: Option<String>,
    /// A device by name or id (repeatable)
    #[arg(long = "device", value_name = "DEVICE", num_args = 1.., add = complete::devices())]
    pub(crate) devices: Vec<String>,
    /// A name for the deployment, which commands take instead of its id
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Ask the devices what would happen, without changing anything; exits 3 when one would fail
    #[arg(long, conflicts_with = "watch")]
    pub(crate) plan: bool,
    /// With --plan: print the answer of every device, not only the first ten
    #[arg(long, requires = "plan")]
    pub(crate) all: bool,
    /// Stay and show what happens; exits 3 when the deployment fails, and outside a terminal 8 when
    /// it waits for an operator
    #[arg(short, long)]
    pub(crate) watch: bool,
    /// With --watch: give up waiting after this long (exit code 6); the deployment goes on
    #[arg(long, value_parser = parse_duration, value_name = "DURATION", requires = "watch")]
    pub(crate) timeout: Option<Duration>,
    /// How long a device that is offline has to come back (default 7d)
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    pub(crate) delivery_timeout: Option<Duration>,
    /// How long a device may take once it has begun (default 1h)
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    pub(crate) execution_timeout: Option<Duration>,
    /// A note for whoever reads the order later
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) message: Option<String>,
    #[command(flatten)]
    pub(crate) pack: pack::PackArgs,
    #[command(flatten)]
    pub(crate) timing: timing::TimingArgs,
    #[command(flatten)]
    pub(crate) output: OutputArg,
    #[command(flatten)]
    pub(crate) rollout: rollout::RolloutArgs,
}

/// `dev ...`
#[cfg(feature = "dev")]
#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// How many devices
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(crate) devices: u16,
    /// Deploy once, print the result and leave; exits 3 when the deployment failed
    #[arg(long)]
    pub(crate) once: bool,
    /// Keep everything in this folder, to go on from there next time (default: a temporary one)
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

#[cfg(test)]
mod tests;
