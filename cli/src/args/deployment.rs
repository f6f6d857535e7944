//! `deployment ...` as it is typed.

use std::time::Duration;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use kernex_proto::v1;

use crate::complete;

use super::{Consent, OutputArg, listing::ListArgs, parse_duration, times::parse_since, words};

/// Filters of `deployment list`. All that are given have to hold.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Filters")]
pub(crate) struct DeploymentFilterArgs {
    /// Only deployments in this state or with this result; `open` means all that are not finished
    /// (repeatable)
    #[arg(long = "state", value_name = "STATE", value_parser = words::deployment_states(), value_delimiter = ',')]
    states: Vec<String>,
    /// Only deployments of this bundle: a name, name:version, or a digest as tables show it
    #[arg(long, value_name = "BUNDLE")]
    bundle: Option<String>,
    /// Only deployments that this caller made
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    /// Only deployments made since then: a duration such as 2d, or a time
    #[arg(long, value_parser = parse_since, value_name = "DURATION|TIME")]
    since: Option<Timestamp>,
}

impl DeploymentFilterArgs {
    /// As it is sent to the server; none when every deployment is meant.
    pub(crate) fn filter(&self) -> Option<v1::DeploymentFilter> {
        let mut filter = v1::DeploymentFilter {
            bundle: self.bundle.clone().unwrap_or_default(),
            created_by: self.by.clone().unwrap_or_default(),
            since: self.since.map(|time| prost_types::Timestamp {
                seconds: time.as_second(),
                nanos: time.subsec_nanosecond(),
            }),
            ..v1::DeploymentFilter::default()
        };
        for word in &self.states {
            if word == "open" {
                let open = OPEN.iter().map(|state| i32::from(*state));
                filter.states.extend(open);
            } else if let Some(state) = words::deployment_state(word) {
                filter.states.push(state.into());
            } else if let Some(result) = words::deployment_result(word) {
                filter.results.push(result.into());
            }
        }
        (filter != v1::DeploymentFilter::default()).then_some(filter)
    }
}

/// States of deployments that go on.
const OPEN: [v1::DeploymentState; 5] = [
    v1::DeploymentState::Scheduled,
    v1::DeploymentState::Active,
    v1::DeploymentState::Paused,
    v1::DeploymentState::AwaitingApproval,
    v1::DeploymentState::Stopping,
];

/// Filters of `deployment get`. All that are given have to hold.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Filters")]
pub(crate) struct TargetFilterArgs {
    /// Only devices whose latest attempt is in this state (repeatable)
    #[arg(long = "state", value_name = "STATE", value_parser = words::attempt_states(), value_delimiter = ',')]
    states: Vec<String>,
    /// Only devices that failed for this reason (repeatable)
    #[arg(long = "reason", value_name = "REASON", value_parser = words::failure_reasons(), value_delimiter = ',')]
    reasons: Vec<String>,
    /// Only devices of this phase
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    phase: Option<u32>,
    /// Only the device of this name; * stands for any text, ? for one character
    #[arg(long, value_name = "PATTERN")]
    device: Option<String>,
}

impl TargetFilterArgs {
    /// As it is sent to the server; none when every target is meant.
    pub(crate) fn filter(&self) -> Option<v1::TargetFilter> {
        let states = self.states.iter();
        let reasons = self.reasons.iter();
        let filter = v1::TargetFilter {
            states: states
                .filter_map(|word| words::attempt_state(word))
                .map(i32::from)
                .collect(),
            reasons: reasons
                .filter_map(|word| words::failure_reason(word))
                .map(i32::from)
                .collect(),
            phase: self.phase.unwrap_or(0),
            device_name: self.device.clone().unwrap_or_default(),
        };
        (filter != v1::TargetFilter::default()).then_some(filter)
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeploymentCommand {
    /// List deployments, newest first
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        filter: DeploymentFilterArgs,
        #[command(flatten)]
        list: ListArgs,
        #[command(flatten)]
        output: OutputArg,
    },
    /// Show one deployment and its devices, those without success first
    #[command(visible_aliases = ["describe", "show"])]
    Get {
        /// Deployment: its id, the first digits of it, or its name
        #[arg(add = complete::deployments())]
        id: String,
        #[command(flatten)]
        filter: TargetFilterArgs,
        #[command(flatten)]
        list: ListArgs,
        #[command(flatten)]
        output: OutputArg,
    },
    /// Watch a deployment until it is finished; exits 3 when it failed, and 8 when it waits for an
    /// operator and the output is no terminal
    Watch {
        /// Deployment: its id, the first digits of it, or its name
        #[arg(add = complete::deployments())]
        id: String,
        /// Give up waiting after this long (exit code 6); the deployment goes on
        #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
        timeout: Option<Duration>,
        #[command(flatten)]
        output: OutputArg,
    },
    /// Stop a deployment: what has not started is cancelled, what runs is killed
    Cancel {
        /// Deployment: its id, the first digits of it, or its name
        #[arg(add = complete::deployments())]
        id: String,
        #[command(flatten)]
        consent: Consent,
        #[command(flatten)]
        output: OutputArg,
    },
    /// Roll a deployment back: return its devices to what they ran before it
    Rollback(super::rollback::RollbackArgs),
    /// Pause a deployment: nothing more begins; devices finish what they have begun
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
    /// Stop a deployment on every device now, and list which devices have acknowledged; exits 6
    /// when some have not in time
    Halt(HaltArgs),
}

/// Which deployment, and how to print it.
#[derive(Debug, Clone, Args)]
pub(crate) struct SteerArgs {
    /// Deployment: its id, the first digits of it, or its name
    #[arg(add = complete::deployments())]
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) output: OutputArg,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct PromoteArgs {
    #[command(flatten)]
    pub(crate) steer: SteerArgs,
    /// The phase to open, which has to be the next one (default: whichever is next now)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) phase: Option<u32>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct RetryArgs {
    #[command(flatten)]
    pub(crate) steer: SteerArgs,
    /// Only this device, by name or id (repeatable; default: every failed one)
    #[arg(long = "device", value_name = "DEVICE", num_args = 1.., add = complete::devices())]
    pub(crate) devices: Vec<String>,
}

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
