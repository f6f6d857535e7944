//! `audit ...`, as typed.

use clap::{Args, Subcommand, ValueEnum};
use kernex_proto::v1;

use super::{
    OutputArg,
    times::{End, parse_end},
};

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// List who changed what, from where and when, and who was refused; newest first
    List(AuditArgs),
}

#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    /// Only calls by this caller
    #[arg(long, value_name = "NAME")]
    pub(crate) by: Option<String>,
    /// Only calls with this token
    #[arg(long, value_name = "ID")]
    pub(crate) token: Option<String>,
    /// Only calls from this address
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) from: Option<String>,
    /// Only calls of this method, e.g. CreateDeployment
    #[arg(long, value_name = "METHOD")]
    pub(crate) method: Option<String>,
    /// Only calls that changed this, by its id or name
    #[arg(long, value_name = "ID|NAME")]
    pub(crate) on: Option<String>,
    /// Only calls with this result
    #[arg(long, value_enum)]
    pub(crate) result: Option<AuditResult>,
    /// Only calls since then: a duration such as 2h, or a time such as 2027-02-03T04:05:00Z
    #[arg(long, value_parser = parse_end, value_name = "DURATION|TIME")]
    pub(crate) since: Option<End>,
    /// Only calls before then, written like --since
    #[arg(long, value_parser = parse_end, value_name = "DURATION|TIME")]
    pub(crate) until: Option<End>,
    /// At most this many
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: u32,
    #[command(flatten)]
    pub(crate) output: OutputArg,
}

/// The result of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AuditResult {
    /// It changed something
    Ok,
    /// The role did not allow it
    Denied,
    /// The token does not work
    Unauthenticated,
}

impl From<AuditResult> for v1::AuditResult {
    fn from(result: AuditResult) -> Self {
        match result {
            AuditResult::Ok => Self::Ok,
            AuditResult::Denied => Self::Denied,
            AuditResult::Unauthenticated => Self::Unauthenticated,
        }
    }
}
