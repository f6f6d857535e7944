//! `device`: who is there, how they are, what they run.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use kernex_proto::v1;

use super::{Consent, OutputArg, listing::ListArgs, parse_duration};
use crate::complete;

#[derive(Debug, Subcommand)]
pub(crate) enum DeviceCommand {
    /// List devices
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        filter: DeviceFilterArgs,
        #[command(flatten)]
        list: ListArgs,
        /// Keep showing changes until interrupted; in a pipe and with -o json one line for each
        /// change
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

/// Whether a device can be reached, as typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Status {
    Online,
    Offline,
    Conflicted,
}

/// Filters of `device list`. All that are given have to hold.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Filters")]
pub(crate) struct DeviceFilterArgs {
    /// Only devices with these labels, e.g. 'site=berlin,env in (prod,stage),!canary'
    #[arg(short = 'l', long, default_value = "", hide_default_value = true)]
    pub(crate) selector: String,
    /// Only devices with this status (repeatable)
    #[arg(long = "status", value_enum, value_delimiter = ',')]
    statuses: Vec<Status>,
    /// The same as --status conflicted
    #[arg(long)]
    conflicted: bool,
    /// Only devices that run something else than their last outcome said
    #[arg(long)]
    drifted: bool,
    /// Only devices whose agent has this version (repeatable)
    #[arg(long = "agent-version", value_name = "VERSION", value_delimiter = ',')]
    agent_versions: Vec<String>,
    /// Only devices that run this bundle: a name, name:version, or a digest as tables show it
    #[arg(long = "bundle", value_name = "BUNDLE", visible_alias = "runs")]
    runs: Option<String>,
    /// Only devices that were seen within this time, e.g. 10m
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    seen_within: Option<Duration>,
    /// Only devices that were not seen for this long, or never
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    unseen_for: Option<Duration>,
    /// Only devices of this name; * stands for any text, ? for one character
    #[arg(long, value_name = "PATTERN")]
    name: Option<String>,
}

impl DeviceFilterArgs {
    /// As it is sent to the server; none when only labels count.
    pub(crate) fn filter(&self) -> Option<v1::DeviceFilter> {
        let conflicted = self.conflicted.then_some(Status::Conflicted);
        let statuses = self.statuses.iter().copied().chain(conflicted);
        let filter = v1::DeviceFilter {
            statuses: statuses
                .map(|status| match status {
                    Status::Online => v1::DeviceStatus::Online.into(),
                    Status::Offline => v1::DeviceStatus::Offline.into(),
                    Status::Conflicted => v1::DeviceStatus::Conflicted.into(),
                })
                .collect(),
            agent_versions: self.agent_versions.clone(),
            runs: self.runs.clone().unwrap_or_default(),
            drifted: self.drifted.then_some(true),
            seen_within_seconds: self.seen_within.map_or(0, |age| age.as_secs()),
            unseen_for_seconds: self.unseen_for.map_or(0, |age| age.as_secs()),
            name: self.name.clone().unwrap_or_default(),
        };
        (filter != v1::DeviceFilter::default()).then_some(filter)
    }
}
