//! `event ...`, as typed.

use clap::Subcommand;

use super::OutputArg;

#[derive(Debug, Subcommand)]
pub(crate) enum EventCommand {
    /// Print what happens in the fleet, a line for each event, until interrupted
    Watch {
        /// Begin after this cursor; 0 begins with the oldest event that is kept (default: what
        /// comes next)
        #[arg(long, value_name = "CURSOR")]
        after: Option<u64>,
        /// Only this kind, e.g. device.drifted, or all of a subject, e.g. deployment (repeatable)
        #[arg(long = "kind", value_name = "KIND")]
        kinds: Vec<String>,
        #[command(flatten)]
        output: OutputArg,
    },
}
