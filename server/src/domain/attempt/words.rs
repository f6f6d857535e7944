//! The words for attempts: states, reasons, steps and endings.

use crate::domain::named_enum;

named_enum! {
    State {
        /// Its phase is not open.
        Held = "held",
        /// Opened; waits for the device.
        Pending = "pending",
        /// Pushed into a session. Nothing depends on this state.
        Sent = "sent",
        Accepted = "accepted",
        Running = "running",
        /// The release is active.
        Succeeded = "succeeded",
        /// Ended with a reason.
        Failed = "failed",
        Cancelled = "cancelled",
        Expired = "expired",
        /// A newer deployment of the same bundle name took its place.
        Superseded = "superseded",
    }
}

impl State {
    #[must_use]
    pub const fn is_open(self) -> bool {
        match self {
            Self::Held | Self::Pending | Self::Sent | Self::Accepted | Self::Running => true,
            Self::Succeeded | Self::Failed | Self::Cancelled | Self::Expired | Self::Superseded => {
                false
            }
        }
    }
}

named_enum! {
    /// Why an attempt failed.
    FailureReason {
        /// The bundle could not be fetched.
        Download = "download",
        /// The bytes had another digest than the bundle, twice.
        DigestMismatch = "digest_mismatch",
        /// The archive has an entry that is not safe to unpack.
        UnsafeArchive = "unsafe_archive",
        /// There is no manifest.json in the archive.
        ManifestMissing = "manifest_missing",
        /// manifest.json cannot be read, or lacks something.
        ManifestInvalid = "manifest_invalid",
        /// The device is not what `requires` asks for.
        Requirements = "requirements",
        /// `hooks.pre` refused.
        Refused = "refused",
        DiskFull = "disk_full",
        /// The script or a hook exited non-zero.
        ScriptFailed = "script_failed",
        /// The script or a hook outlived its limit and was killed.
        ScriptTimeout = "script_timeout",
        /// The release did not stay healthy.
        HealthCheck = "health_check",
        /// Going back to the previous release failed.
        RollbackFailed = "rollback_failed",
        /// The agent or the machine stopped in the middle.
        Interrupted = "interrupted",
        /// The agent lost its journal, and the attempt with it.
        JournalLost = "journal_lost",
        /// The agent does not know this kind of command.
        Unsupported = "unsupported",
        /// A defect; the message says what.
        Internal = "internal",
        /// Never begun: the device failed this bundle too often before.
        Penalised = "penalised",
    }
}

named_enum! {
    /// What an attempt is doing on the device.
    Step {
        /// Fetching the bundle.
        Download = "download",
        /// Comparing its digest.
        Verify = "verify",
        /// Unpacking it.
        Unpack = "unpack",
        /// Running `hooks.pre`.
        PreHook = "pre_hook",
        /// Running `deploy.script`.
        Script = "script",
        /// Switching `current`.
        Activate = "activate",
        /// Running `hooks.post`.
        PostHook = "post_hook",
        /// Probing health.
        Health = "health",
        /// Going back to the previous release.
        Rollback = "rollback",
    }
}

/// How an attempt ended, as its agent reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The release is active.
    Succeeded,
    /// The release is not active; the reason says why.
    Failed(FailureReason),
    /// It was stopped before it was done.
    Cancelled,
}

impl Ending {
    /// The state in which this ending closes an open attempt.
    #[must_use]
    pub const fn state(self) -> State {
        match self {
            Self::Succeeded => State::Succeeded,
            Self::Failed(_) => State::Failed,
            Self::Cancelled => State::Cancelled,
        }
    }

    #[must_use]
    pub const fn reason(self) -> Option<FailureReason> {
        match self {
            Self::Failed(reason) => Some(reason),
            Self::Succeeded | Self::Cancelled => None,
        }
    }
}
