//! One entry for each error type of the server: which status it becomes.

use std::time::Duration;

use kernex_proto::{archive::ArchiveError, error::Reason};
use tonic::{Code, Status};

use super::{
    RETRY, busy, chain, going_away, internal, invalid, malformed, retry_later, revoked, status,
    token_ended, unauthenticated,
};
use crate::{
    api::bundles::upload::error::UploadError,
    blobs::BlobError,
    delivery::end_reason::EndReason,
    enrollment::EnrollmentError,
    session::error::HandshakeError,
    store::{DownloadError, StoreError},
};

/// When a copy that was given up may try again. Somebody may have changed their mind.
const GIVEN_UP: Duration = Duration::from_secs(60);

fn unavailable() -> Status {
    retry_later(
        Code::Unavailable,
        Reason::StoreUnavailable,
        "the database does not answer",
        RETRY,
    )
}

impl From<StoreError> for Status {
    fn from(error: StoreError) -> Self {
        let text = error.to_string();
        match error {
            StoreError::Unavailable(_) => {
                tracing::warn!(error = %chain(&error), "the database does not answer");
                unavailable()
            }
            StoreError::NotFound { .. } => status(Code::NotFound, Reason::NotFound, text),
            StoreError::AlreadyExists { .. } => {
                status(Code::AlreadyExists, Reason::AlreadyExists, text)
            }
            StoreError::Conflict { .. } => status(Code::Aborted, Reason::Conflict, text),
            StoreError::WrongState { .. } => {
                status(Code::FailedPrecondition, Reason::WrongState, text)
            }
            StoreError::InUse { .. } => status(Code::FailedPrecondition, Reason::InUse, text),
            StoreError::Invalid { field, why } => invalid(field, why),
            StoreError::NoTargets => status(Code::InvalidArgument, Reason::NoTargets, text),
            StoreError::CopyGivenUp(_) => {
                tracing::warn!(error = text, "a copy of a device was refused");
                retry_later(
                    Code::FailedPrecondition,
                    Reason::CopyGivenUp,
                    &text,
                    GIVEN_UP,
                )
            }
            StoreError::EpochNotIssued { .. } => {
                tracing::warn!(
                    error = text,
                    "an agent with a made-up session number was refused"
                );
                retry_later(
                    Code::FailedPrecondition,
                    Reason::EpochNotIssued,
                    &text,
                    GIVEN_UP,
                )
            }
            StoreError::ProtocolDowngraded { .. } => {
                tracing::warn!(
                    error = text,
                    "an older revision of the protocol was refused"
                );
                retry_later(
                    Code::FailedPrecondition,
                    Reason::ProtocolDowngraded,
                    &text,
                    GIVEN_UP,
                )
            }
            StoreError::NotConflicted(_) => {
                status(Code::FailedPrecondition, Reason::NotConflicted, text)
            }
            StoreError::Finished => status(Code::FailedPrecondition, Reason::Finished, text),
            StoreError::NothingToRollBack(_) => {
                status(Code::FailedPrecondition, Reason::NothingToRollBack, text)
            }
            StoreError::RequestIdReused => {
                status(Code::InvalidArgument, Reason::RequestIdReused, text)
            }
            StoreError::LastAdmin(_) => status(Code::FailedPrecondition, Reason::LastAdmin, text),
            StoreError::NewerSchema(_) | StoreError::Db(_) => internal(&error),
        }
    }
}

/// What is wrong with an archive. A function, because both types are of other crates.
#[must_use]
pub fn archive(error: &ArchiveError) -> Status {
    let (code, reason) = match error {
        ArchiveError::Unsafe(_) => (Code::InvalidArgument, Reason::UnsafeArchive),
        ArchiveError::ManifestMissing => (Code::InvalidArgument, Reason::ManifestMissing),
        ArchiveError::ManifestInvalid(_) | ArchiveError::Mistaken(_) => {
            (Code::InvalidArgument, Reason::ManifestInvalid)
        }
        ArchiveError::TooLarge { .. } => (Code::InvalidArgument, Reason::TooLarge),
        ArchiveError::Corrupt(_) => (Code::InvalidArgument, Reason::InvalidArgument),
        ArchiveError::Io(_) => return internal(error),
    };
    let text = match error.findings() {
        // The findings know better than the caller what to do about them.
        Some(findings) => format!("{error}; what helps: {}", findings.ways_out().join(" ")),
        None => error.to_string(),
    };
    status(code, reason, text)
}

impl From<EnrollmentError> for Status {
    fn from(refused: EnrollmentError) -> Self {
        match refused {
            EnrollmentError::Malformed { field, why } => invalid(field, why),
            EnrollmentError::NotAuthenticated(why) => {
                // The caller is a stranger, of whom the log speaks once a minute.
                tracing::debug!(why, "enrolment refused");
                unauthenticated()
            }
            EnrollmentError::KeyRevoked { cause, device_name } => {
                tracing::info!(
                    device = device_name,
                    because = cause.as_str(),
                    "enrolment refused: the key is revoked"
                );
                revoked(cause, &device_name)
            }
            EnrollmentError::TokenEnded(why) => token_ended(&format!(
                "the enrolment token {why}; make another one with `kernexctl enrollment create`"
            )),
            EnrollmentError::NameTaken(_) => status(
                Code::AlreadyExists,
                Reason::AlreadyExists,
                refused.to_string(),
            ),
            EnrollmentError::Store(error) => error.into(),
        }
    }
}

impl From<DownloadError> for Status {
    fn from(refused: DownloadError) -> Self {
        let text = refused.to_string();
        match refused {
            DownloadError::Unauthenticated => unauthenticated(),
            DownloadError::NotATarget => status(Code::PermissionDenied, Reason::NotAllowed, text),
            DownloadError::Gone => status(Code::NotFound, Reason::NotFound, text),
            DownloadError::Store(error) => error.into(),
        }
    }
}

impl From<BlobError> for Status {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::NotFound(_) => {
                status(Code::NotFound, Reason::NotFound, "the bundle is gone")
            }
            BlobError::Busy => busy(&error.to_string(), RETRY),
            BlobError::NoSpace => {
                tracing::error!("no space is left for bundles");
                status(Code::ResourceExhausted, Reason::NoSpace, error.to_string())
            }
            BlobError::Location(_) | BlobError::Io { .. } | BlobError::Store(_) => internal(&error),
        }
    }
}

impl From<HandshakeError> for Status {
    fn from(refusal: HandshakeError) -> Self {
        match refusal {
            HandshakeError::Malformed(why) => malformed(&why),
            HandshakeError::TooManyHeld(_) => malformed(&refusal.to_string()),
            // A handshake that was too slow has proved nothing either.
            HandshakeError::NotAuthenticated(_) | HandshakeError::TooSlow => unauthenticated(),
            // The key was proved, so its owner may know what to do.
            HandshakeError::ProtocolTooOld { least, .. } => status(
                Code::FailedPrecondition,
                Reason::ProtocolTooOld,
                format!("this server takes protocol revision {least} or newer; update the agent"),
            ),
            HandshakeError::ProtocolDowngraded { .. } => status(
                Code::FailedPrecondition,
                Reason::ProtocolDowngraded,
                refusal.to_string(),
            ),
            HandshakeError::KeyRevoked { cause, device_name } => revoked(cause, &device_name),
            HandshakeError::Overloaded { retry_after } => {
                busy("too many devices connect at once", retry_after)
            }
            HandshakeError::Draining => going_away(),
            HandshakeError::Gone => Self::cancelled("the stream ended"),
            HandshakeError::Store(error) => error.into(),
            HandshakeError::Unanswered => {
                tracing::error!(error = %refusal, "a defect");
                unavailable()
            }
        }
    }
}

impl From<EndReason> for Status {
    fn from(end: EndReason) -> Self {
        match end {
            EndReason::Replaced => status(
                Code::Aborted,
                Reason::SessionReplaced,
                "a newer session took over",
            ),
            EndReason::SlowConsumer => status(
                Code::ResourceExhausted,
                Reason::SlowConsumer,
                "the agent did not keep up",
            ),
            EndReason::Revoked(cause) => revoked(cause, ""),
            EndReason::Unrecorded => retry_later(
                Code::Unavailable,
                Reason::StoreUnavailable,
                "a report could not be recorded",
                Duration::from_secs(5),
            ),
            EndReason::Drain { .. } => going_away(),
        }
    }
}

impl From<UploadError> for Status {
    fn from(error: UploadError) -> Self {
        let (code, reason) = match error {
            UploadError::Silent(_) | UploadError::TooSlow { .. } => {
                (Code::DeadlineExceeded, Reason::SlowConsumer)
            }
            UploadError::OtherSize { .. } | UploadError::OtherDigest { .. } => {
                (Code::InvalidArgument, Reason::DigestMismatch)
            }
            UploadError::TooLarge(_) => (Code::ResourceExhausted, Reason::TooLarge),
        };
        status(code, reason, error.to_string())
    }
}
