//! The verb first, as other programs have it: `get devices`, `rm bundle`, `wait device`.

use std::time::Duration;

use clap::{Subcommand, ValueEnum};

use crate::complete;

use super::{
    Consent, OutputArg, deployment::DeploymentFilterArgs, device::DeviceFilterArgs,
    listing::ListArgs, parse_duration,
};

#[derive(Debug, Subcommand)]
pub(crate) enum GetCommand {
    /// List devices, or show some
    #[command(visible_alias = "device")]
    Devices {
        /// Names or ids
        #[arg(value_name = "DEVICE", add = complete::devices())]
        devices: Vec<String>,
        #[command(flatten)]
        filter: DeviceFilterArgs,
        #[command(flatten)]
        list: ListArgs,
        #[command(flatten)]
        output: OutputArg,
    },
    /// List deployments, or show one
    #[command(visible_alias = "deployment")]
    Deployments {
        /// Its id, the first digits of it, or its name
        #[arg(add = complete::deployments())]
        id: Option<String>,
        #[command(flatten)]
        filter: DeploymentFilterArgs,
        #[command(flatten)]
        list: ListArgs,
        #[command(flatten)]
        output: OutputArg,
    },
    /// List bundles, or show one
    #[command(visible_alias = "bundle")]
    Bundles {
        /// name:version, a digest, or a name for its newest version
        bundle: Option<String>,
        /// Only bundles of this name
        #[arg(long, default_value = "", hide_default_value = true)]
        name: String,
        #[command(flatten)]
        list: ListArgs,
        #[command(flatten)]
        output: OutputArg,
    },
    /// List configurations, or show the one of a device
    #[command(visible_alias = "config")]
    Configs {
        /// Device name or id
        device: Option<String>,
        #[command(flatten)]
        output: OutputArg,
    },
    /// List contexts
    #[command(visible_alias = "context")]
    Contexts {
        #[command(flatten)]
        output: OutputArg,
    },
    /// List enrolment tokens
    #[command(visible_alias = "enrollment")]
    Enrollments {
        #[command(flatten)]
        output: OutputArg,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeleteCommand {
    /// Delete a device: its key is revoked and its open work cancelled
    Device {
        /// Name or id
        #[arg(add = complete::devices())]
        device: String,
        #[command(flatten)]
        consent: Consent,
    },
    /// Delete a bundle that no device and no deployment needs
    Bundle {
        /// name:version, or a digest or its first 12 digits
        bundle: String,
        #[command(flatten)]
        consent: Consent,
    },
    /// Remove a configuration; it no longer applies to its devices
    Config {
        /// Name of the configuration
        name: String,
        #[command(flatten)]
        consent: Consent,
    },
    /// Forget a context and its token
    Context {
        /// Name of the context
        name: String,
        #[command(flatten)]
        consent: Consent,
    },
}

/// What a device is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DeviceWish {
    /// It has a session
    Online,
    /// It has none
    Offline,
    /// It runs what its last outcome said
    Settled,
}

#[derive(Debug, Subcommand)]
pub(crate) enum WaitCommand {
    /// Wait for a device; exits 6 when it takes too long
    Device {
        /// Name or id
        #[arg(add = complete::devices())]
        device: String,
        /// What to wait for
        #[arg(long = "for", value_enum, default_value_t = DeviceWish::Online, value_name = "STATE")]
        wish: DeviceWish,
        /// How long to wait
        #[arg(long, value_parser = parse_duration, value_name = "DURATION", default_value = "5m")]
        timeout: Duration,
    },
    /// Wait until a deployment is finished; exits 3 when it failed, 6 when it takes too long
    Deployment {
        /// Its id, the first digits of it, or its name
        #[arg(add = complete::deployments())]
        id: String,
        /// How long to wait (default: as long as it takes)
        #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
        timeout: Option<Duration>,
        #[command(flatten)]
        output: OutputArg,
    },
}
