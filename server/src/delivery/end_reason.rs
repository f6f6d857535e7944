//! Why the server ends a session. The table of statuses uses it, so it stands below the registry.

use std::time::Duration;

use crate::revocations::Cause;

/// Why the server ends a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// A newer session of the same device took over.
    Replaced,
    /// Its queue was full.
    SlowConsumer,
    /// The key it was opened with was revoked.
    Revoked(Cause),
    /// A report could not be written; the agent keeps it and sends it again in its next session.
    Unrecorded,
    Drain {
        /// The agent waits so long before it comes back.
        reconnect_after: Duration,
    },
}
