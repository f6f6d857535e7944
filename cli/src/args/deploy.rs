//! `deploy`: put a bundle on devices.

use clap::{ArgGroup, Args};

use super::{
    OutputArg, order::OrderArgs, pack::PackArgs, rollout::RolloutArgs, timing::TimingArgs,
    values::parse_name,
};
use crate::complete;

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
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    pub(crate) name: Option<String>,
    /// Ask the devices what would happen, without changing anything; exits 3 when one would fail
    #[arg(long, visible_alias = "dry-run", conflicts_with = "watch")]
    pub(crate) plan: bool,
    /// With --plan: print the answer of every device, not only the first ten
    #[arg(long, requires = "plan")]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) order: OrderArgs,
    #[command(flatten)]
    pub(crate) pack: PackArgs,
    #[command(flatten)]
    pub(crate) timing: TimingArgs,
    #[command(flatten)]
    pub(crate) output: OutputArg,
    #[command(flatten)]
    pub(crate) rollout: RolloutArgs,
}
