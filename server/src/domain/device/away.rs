//! Why a device is away. The names are in rows, on the wire and in output.

use crate::domain::named_enum;

named_enum! {
    /// Why a device is away.
    AwayReason {
        /// Its agent ended the session, as it does when it stops.
        Closed = "closed",
        /// The connection broke.
        Cut = "cut",
        /// Nothing was heard of it: three heartbeats did not come, or a ping of its connection was
        /// not answered.
        Silent = "silent",
        /// The server it was connected to stopped, and told it to come back.
        Drained = "drained",
        /// The server it was connected to died.
        ServerGone = "server_gone",
        /// A newer session of it took over, and did not last.
        Replaced = "replaced",
        /// Its key was revoked: another one took the device over.
        Revoked = "revoked",
        /// An operator decided between its copies.
        Resolved = "resolved",
        /// The server does not take it; the detail says why.
        Refused = "refused",
        /// It did not read what the server sent.
        SlowConsumer = "slow_consumer",
        /// It said something that makes no sense; the detail says what.
        Malformed = "malformed",
        /// The server could not write down what it said.
        Unrecorded = "unrecorded",
        /// It has never been here.
        NeverConnected = "never_connected",
    }
}

/// Why a device is away, with what is known about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Away {
    pub reason: AwayReason,
    /// In words; empty where the reason says it all.
    pub detail: String,
}

impl From<AwayReason> for Away {
    fn from(reason: AwayReason) -> Self {
        Self {
            reason,
            detail: String::new(),
        }
    }
}
