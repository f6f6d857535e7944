//! `deployment rollback`, as typed.

use std::time::Duration;

use clap::Args;

use super::{Consent, OutputArg, parse_duration};

#[derive(Debug, Args)]
pub(crate) struct RollbackArgs {
    /// The deployment to roll back: its id, or the first digits of it
    #[arg(add = crate::complete::deployments())]
    pub(crate) id: String,
    /// Only show which device would go back to what, and why others would not
    #[arg(long, conflicts_with = "watch")]
    pub(crate) plan: bool,
    /// Show progress until the rollback is finished; exits 3 when it fails
    #[arg(short, long)]
    pub(crate) watch: bool,
    /// With --watch: give up waiting after this long (exit code 6); the rollback goes on
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
    pub(crate) consent: Consent,
    #[command(flatten)]
    pub(crate) output: OutputArg,
}
