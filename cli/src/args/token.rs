//! `token ...`, as typed.

use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use kernex_proto::v1;

use super::{Consent, OutputArg, parse_duration};
use crate::complete;

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token for a person or a pipeline; its text is shown once
    Create {
        /// Who it is for; shown as the author of changes
        name: String,
        /// What it may do: viewer reads, operator also deploys, admin may do everything
        #[arg(long, value_enum)]
        role: Role,
        /// How long the token is valid, e.g. 12h, 30d
        #[arg(long, default_value = "90d", value_parser = parse_duration, value_name = "DURATION")]
        ttl: Duration,
        #[command(flatten)]
        output: OutputArg,
    },
    /// List tokens, newest first, without their secrets: who has them, what they may do, when they
    /// were used last and from where
    List {
        /// Also list tokens that have expired or were revoked
        #[arg(short, long)]
        all: bool,
        #[command(flatten)]
        output: OutputArg,
    },
    /// Revoke a token: its calls and streams end at once
    Revoke {
        /// Id of a token, or the name of one that is valid
        #[arg(add = complete::tokens())]
        token: String,
        #[command(flatten)]
        consent: Consent,
    },
}

/// What a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Reads
    Viewer,
    /// Reads and deploys
    Operator,
    /// Everything
    Admin,
}

impl From<Role> for v1::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Viewer => Self::Viewer,
            Role::Operator => Self::Operator,
            Role::Admin => Self::Admin,
        }
    }
}
