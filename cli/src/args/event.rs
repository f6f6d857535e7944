//! `event ...`, as typed.

use clap::{Args, Subcommand};
use jiff::Timestamp;
use kernex_proto::event_kinds::by_subject;

use super::{OutputArg, times::parse_since};
use crate::complete;

#[derive(Debug, Subcommand)]
pub(crate) enum EventCommand {
    /// Print what happens in the fleet, a line for each event, until interrupted
    Watch(EventArgs),
}

/// Which events are printed. All filters that are given have to fit.
#[derive(Debug, Clone, Args)]
pub(crate) struct EventArgs {
    /// Begin after this cursor; 0 begins with the oldest event that is kept (default: what comes
    /// next)
    #[arg(long, value_name = "CURSOR", conflicts_with = "since")]
    pub(crate) after: Option<u64>,
    /// Begin with what happened since then: a duration such as 2h, or a time
    #[arg(long, value_parser = parse_since, value_name = "DURATION|TIME")]
    pub(crate) since: Option<Timestamp>,
    /// Only this kind, e.g. device.drifted, or all of a subject, e.g. deployment (repeatable)
    #[arg(long = "kind", value_name = "KIND", value_delimiter = ',', add = complete::event_kinds(), long_help = kind_help())]
    pub(crate) kinds: Vec<String>,
    /// Only what is about this device, by name or id (repeatable)
    #[arg(long = "device", value_name = "DEVICE", value_delimiter = ',', add = complete::devices())]
    pub(crate) devices: Vec<String>,
    /// Only what is about this deployment: its id, the first digits of it, or its name (repeatable)
    #[arg(long = "deployment", value_name = "DEPLOYMENT", value_delimiter = ',', add = complete::deployments())]
    pub(crate) deployments: Vec<String>,
    #[command(flatten)]
    pub(crate) output: OutputArg,
}

fn kind_help() -> String {
    format!(
        "Only this kind, e.g. device.drifted, or all of a subject, e.g. deployment (repeatable):\n\n{}",
        kind_lines("")
    )
}

/// The kinds that there are, a few lines for each subject, each line after `indent`.
pub(crate) fn kind_lines(indent: &str) -> String {
    const WIDTH: usize = 68;
    let mut text = String::new();
    for (subject, verbs) in by_subject() {
        let mut line = format!("{subject}.");
        for (at, verb) in verbs.iter().enumerate() {
            let comma = if at + 1 < verbs.len() { "," } else { "" };
            if line.len() + verb.len() + 2 > WIDTH {
                text.push_str(&format!("{indent}{}\n", line.trim_end()));
                line = "    ".to_owned();
            }
            line.push_str(&format!("{verb}{comma} "));
        }
        text.push_str(&format!("{indent}{}\n", line.trim_end()));
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use kernex_proto::event_kinds::ALL;

    use super::*;

    #[test]
    fn every_kind_stands_in_a_line_that_fits() {
        let lines = kind_lines("  ");
        assert!(lines.lines().all(|line| line.len() <= 72), "{lines}");
        for (_, verb) in ALL.iter().filter_map(|kind| kind.split_once('.')) {
            assert!(lines.contains(verb), "{verb}: {lines}");
        }
        assert!(lines.contains("  bundle.deleted, uploaded\n"), "{lines}");
    }
}
