//! What `deploy` and `deployment rollback` both take: how long their order may last, a note, and
//! whether to watch it.

use std::time::Duration;

use clap::Args;

use super::parse_duration;

#[derive(Debug, Clone, Args)]
pub(crate) struct OrderArgs {
    /// Show progress until the deployment is finished; exits 3 when it fails, and 8 when it waits
    /// for an operator and the output is no terminal
    #[arg(short, long, visible_alias = "wait")]
    pub(crate) watch: bool,
    /// With --watch: give up waiting after this long (exit code 6); the deployment goes on
    #[arg(long, value_parser = parse_duration, value_name = "DURATION", requires = "watch")]
    pub(crate) timeout: Option<Duration>,
    /// How long a device that is offline has to come back (default 7d)
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    delivery_timeout: Option<Duration>,
    /// How long a device may take once it has begun (default 1h)
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    execution_timeout: Option<Duration>,
    /// A note for whoever reads the order later
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
}

impl OrderArgs {
    /// As it is sent to the server, where 0 stands for the default.
    pub(crate) fn delivery_seconds(&self) -> u64 {
        self.delivery_timeout.map_or(0, |limit| limit.as_secs())
    }

    /// As it is sent to the server, where 0 stands for the default.
    pub(crate) fn execution_seconds(&self) -> u64 {
        self.execution_timeout.map_or(0, |limit| limit.as_secs())
    }

    /// As it is sent to the server, where empty stands for none.
    pub(crate) fn message(&self) -> String {
        self.message.clone().unwrap_or_default()
    }
}
