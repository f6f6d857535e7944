//! `output ...`, as typed.

use clap::{ArgGroup, Args};

use super::OutputArg;
use crate::complete;

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("whose").required(true).multiple(true).args(["device", "deployment"]))]
pub(crate) struct ScriptOutputArgs {
    /// Name or id of a device; with --deployment only what it printed there
    #[arg(add = complete::devices())]
    pub(crate) device: Option<String>,
    /// What devices printed in this deployment: its id, the first digits of it, or its name
    #[arg(long, value_name = "DEPLOYMENT", add = complete::deployments())]
    pub(crate) deployment: Option<String>,
    /// Only the text, without headings and marks
    #[arg(long)]
    pub(crate) raw: bool,
    /// With --deployment: at most this many devices; those that failed come first
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: u32,
    #[command(flatten)]
    pub(crate) output: OutputArg,
}
