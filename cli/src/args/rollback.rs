//! `deployment rollback`, as typed.

use clap::Args;

use super::{Consent, OutputArg, order::OrderArgs};

#[derive(Debug, Args)]
pub(crate) struct RollbackArgs {
    /// The deployment to roll back: its id, the first digits of it, or its name
    #[arg(add = crate::complete::deployments())]
    pub(crate) id: String,
    /// Only show which device would go back to what, and why others would not
    #[arg(long, conflicts_with = "watch")]
    pub(crate) plan: bool,
    #[command(flatten)]
    pub(crate) order: OrderArgs,
    #[command(flatten)]
    pub(crate) consent: Consent,
    #[command(flatten)]
    pub(crate) output: OutputArg,
}
