//! `deployment ...` as it is typed.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::{Consent, OutputArg, parse_duration};

/// `deployment ...`
#[derive(Debug, Subcommand)]
pub(crate) enum DeploymentCommand {
    /// List deployments, newest first
    List {
        /// At most this many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
        #[command(flatten)]
        output: OutputArg,
    },
    /// Show one deployment and its devices
    Get {
        /// Deployment id
        id: String,
        #[command(flatten)]
        output: OutputArg,
    },
    /// Watch a deployment until it is finished; exits 3 when it failed
    Watch {
        /// Deployment id
        id: String,
        /// Give up waiting after this long (exit code 6); the deployment goes on
        #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
        timeout: Option<Duration>,
        #[command(flatten)]
        output: OutputArg,
    },
    /// Stop a deployment: what has not started is cancelled, what runs is killed
    Cancel {
        /// Deployment id
        id: String,
        #[command(flatten)]
        consent: Consent,
        #[command(flatten)]
        output: OutputArg,
    },
    /// Roll a deployment back: return its devices to what they ran before it
    Rollback(super::rollback::RollbackArgs),
    /// Begin nothing more; devices finish what they have begun
    Pause {
        #[command(flatten)]
        steer: SteerArgs,
        /// Why; shown with the deployment
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Continue after a pause; failures up to now no longer count
    Resume(SteerArgs),
    /// Open the next phase now; also how a phase is approved
    #[command(visible_alias = "approve")]
    Promote(PromoteArgs),
    /// Try failed devices again
    Retry(RetryArgs),
    /// Stop now, on every device, and list which have acknowledged; exits 6 when some have not in
    /// time
    Halt(HaltArgs),
}

/// Which deployment, and how to print it.
#[derive(Debug, Clone, Args)]
pub(crate) struct SteerArgs {
    /// Deployment id
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) output: OutputArg,
}

/// `deployment promote`
#[derive(Debug, Clone, Args)]
pub(crate) struct PromoteArgs {
    #[command(flatten)]
    pub(crate) steer: SteerArgs,
    /// The phase to open, which has to be the next one (default: whichever is next now)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) phase: Option<u32>,
}

/// `deployment retry`
#[derive(Debug, Clone, Args)]
pub(crate) struct RetryArgs {
    #[command(flatten)]
    pub(crate) steer: SteerArgs,
    /// Only this device, by name or id (repeatable; default: every failed one)
    #[arg(long = "device", value_name = "DEVICE", num_args = 1..)]
    pub(crate) devices: Vec<String>,
}

/// `deployment halt`
#[derive(Debug, Clone, Args)]
pub(crate) struct HaltArgs {
    #[command(flatten)]
    pub(crate) steer: SteerArgs,
    /// How long to wait for the devices' answers
    #[arg(long, value_parser = parse_duration, value_name = "DURATION", default_value = "30s")]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    pub(crate) consent: Consent,
}
