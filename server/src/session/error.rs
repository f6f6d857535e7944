//! Why a stream did not become a session. `error/table.rs` gives each error its status.

use std::time::Duration;

use kernex_proto::error::chain;

use crate::{revocations::Cause, store::StoreError};

/// Why a stream did not become a session.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// A message makes no sense, or came at the wrong time.
    #[error("{0}")]
    Malformed(String),
    /// It lists more attempts than any device holds.
    #[error("Hello: it holds {0} attempts, and at most {most} are read", most = super::handshake::MAX_HELD)]
    TooManyHeld(usize),
    /// The signature or the revision's proof does not hold.
    #[error("not authenticated: {0}")]
    NotAuthenticated(&'static str),
    /// The agent proved itself by a revision of the protocol that the server does not accept any
    /// more.
    #[error(
        "protocol too old: the agent speaks revision {spoken}, and --min-protocol asks for {least}"
    )]
    ProtocolTooOld {
        /// Revision that the proof was made by.
        spoken: u32,
        /// The server's `--min-protocol`.
        least: u32,
    },
    /// The agent knows a newer revision than the one it used. Somebody between the two may have
    /// changed the challenge.
    #[error(
        "protocol downgraded: the agent speaks revision {known} and used {spoken}; is somebody in between?"
    )]
    ProtocolDowngraded {
        /// Revision that the proof was made by.
        spoken: u32,
        /// Newest revision that the agent says it knows.
        known: u32,
    },
    /// The proof holds, but for a key that was revoked.
    #[error("the key of the device `{device_name}` is revoked: {because}", because = .cause.as_str())]
    KeyRevoked {
        cause: Cause,
        /// Name of the device that had the key.
        device_name: String,
    },
    /// It was no session yet at the handshake's deadline.
    #[error("the handshake took longer than 10 s")]
    TooSlow,
    /// There were too many handshakes at once.
    #[error("too many handshakes at once")]
    Overloaded {
        /// When to try again.
        retry_after: Duration,
    },
    #[error("the server is stopping")]
    Draining,
    /// The agent went away.
    #[error("the agent went away")]
    Gone,
    /// The database refused or did not answer.
    #[error("the store failed")]
    Store(#[from] StoreError),
    /// The change of this session was given to the committer, and no answer came.
    #[error("a step of the session was not answered")]
    Unanswered,
}

impl HandshakeError {
    /// Why a device was refused that has proved who it is, in words for operators. `None` without a
    /// proof, because anybody can name a device, and for a reason that passes by itself.
    pub(crate) fn of_a_proven_device(&self) -> Option<String> {
        match self {
            Self::ProtocolTooOld { .. }
            | Self::ProtocolDowngraded { .. }
            | Self::Store(
                StoreError::CopyGivenUp(_)
                | StoreError::EpochNotIssued { .. }
                | StoreError::ProtocolDowngraded { .. },
            ) => Some(chain(self)),
            // The key is another machine's. A newer key speaks for the device.
            Self::KeyRevoked { .. }
            | Self::Malformed(_)
            | Self::TooManyHeld(_)
            | Self::NotAuthenticated(_)
            | Self::TooSlow
            | Self::Overloaded { .. }
            | Self::Draining
            | Self::Gone
            | Self::Store(_)
            | Self::Unanswered => None,
        }
    }

    /// The label that refusals are counted by.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Malformed(_) | Self::TooManyHeld(_) => "malformed",
            Self::NotAuthenticated(_) => "unauthenticated",
            Self::ProtocolTooOld { .. } => "protocol_too_old",
            Self::ProtocolDowngraded { .. } => "protocol_downgraded",
            Self::KeyRevoked { .. } => "revoked",
            Self::TooSlow => "too_slow",
            Self::Overloaded { .. } => "overloaded",
            Self::Draining => "draining",
            Self::Gone => "gone",
            Self::Store(_) | Self::Unanswered => "store",
        }
    }
}
