//! Why a stream did not become a session.

use std::time::Duration;

use kernex_proto::error::chain;

use crate::{revocations::Cause, store::StoreError};

/// Why a stream did not become a session.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// A message makes no sense, or came at the wrong time.
    #[error("{0}")]
    Malformed(String),
    /// A proof failed.
    #[error("not authenticated: {0}")]
    NotAuthenticated(&'static str),
    /// It was proved by a revision of the protocol that the server does not take any more.
    #[error(
        "protocol too old: the agent speaks revision {spoken}, and --min-protocol asks for {least}"
    )]
    ProtocolTooOld {
        /// What it was proved by.
        spoken: u32,
        /// What the server was started with.
        least: u32,
    },
    /// The agent knows a newer revision than the one it used, so somebody in between changed the
    /// challenge.
    #[error(
        "protocol downgraded: the agent speaks revision {known} and used {spoken}; is somebody in between?"
    )]
    ProtocolDowngraded {
        /// What it was proved by.
        spoken: u32,
        /// What it says it could speak.
        known: u32,
    },
    /// The proof holds, for a key that was revoked.
    #[error("the key of the device `{device_name}` is revoked: {because}", because = .cause.as_str())]
    KeyRevoked {
        cause: Cause,
        /// Name of its device then.
        device_name: String,
    },
    /// The deadline passed.
    #[error("the handshake took longer than 10 s")]
    TooSlow,
    /// Too many handshakes at once.
    #[error("too many handshakes at once")]
    Overloaded {
        /// When to come back.
        retry_after: Duration,
    },
    /// The server stops.
    #[error("the server is stopping")]
    Draining,
    /// The agent went away.
    #[error("the agent went away")]
    Gone,
    /// The database refused or did not answer.
    #[error("the store failed")]
    Store(#[from] StoreError),
    /// A step of the session went to the store among others, and no answer to it came back.
    #[error("a step of the session was not answered")]
    Unanswered,
}

impl HandshakeError {
    /// Why a device was refused that had proved who it is, and may be shown with that. Anybody can
    /// name a device; and what passes by itself is no reason.
    pub(crate) fn of_a_proven_device(&self) -> Option<String> {
        match self {
            Self::ProtocolTooOld { .. }
            | Self::ProtocolDowngraded { .. }
            | Self::Store(
                StoreError::CopyGivenUp(_)
                | StoreError::EpochNotIssued { .. }
                | StoreError::ProtocolDowngraded { .. },
            ) => Some(chain(self)),
            // The key of another machine: a newer one speaks for the device.
            Self::KeyRevoked { .. }
            | Self::Malformed(_)
            | Self::NotAuthenticated(_)
            | Self::TooSlow
            | Self::Overloaded { .. }
            | Self::Draining
            | Self::Gone
            | Self::Store(_)
            | Self::Unanswered => None,
        }
    }

    /// The label it is counted by.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
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
