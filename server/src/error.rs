//! The one table from errors to `tonic::Status`: a code, a reason clients match on, and details
//! where they help.
//!
//! What the caller may know is in the message; the whole chain goes to the log here, once.

use std::time::Duration;

use kernex_proto::{
    archive::ArchiveError,
    error::{DOMAIN, LINE, MARK, Reason},
};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::{
    blobs::BlobError,
    domain::mistake::Mistake,
    enrollment::Refused,
    revocations::Cause,
    store::{DownloadRefused, StoreError},
};

/// When to try again after a short trouble of the server's own.
const RETRY: Duration = Duration::from_secs(1);

/// When a copy that nobody wants may ask again; somebody may have changed their mind.
const GIVEN_UP: Duration = Duration::from_secs(60);

/// When a key that was revoked may ask again: somebody may have restored the database.
const REVOKED: Duration = Duration::from_secs(10 * 60);

/// Longest message in a Status; headers carry it, so it stays far below their limit.
const MESSAGE_LIMIT: usize = 1024;

/// A Status with its reason.
#[must_use]
pub fn status(code: Code, reason: Reason, message: impl Into<String>) -> Status {
    let mut message = message.into();
    if message.len() > MESSAGE_LIMIT {
        let cut = message.floor_char_boundary(MESSAGE_LIMIT);
        message.truncate(cut);
    }
    Status::with_error_details(code, message, details(reason))
}

/// A Status that says when to come back.
#[must_use]
pub fn retry_later(code: Code, reason: Reason, message: &str, after: Duration) -> Status {
    let mut details = details(reason);
    details.set_retry_info(Some(after));
    Status::with_error_details(code, message, details)
}

/// How what waits ends when the server stops: the caller comes back.
#[must_use]
pub fn going_away() -> Status {
    retry_later(
        Code::Unavailable,
        Reason::Draining,
        "the server is stopping",
        RETRY,
    )
}

/// `INVALID_ARGUMENT` naming the field.
#[must_use]
pub fn invalid(field: &str, why: impl Into<String>) -> Status {
    let mut why = why.into();
    why.truncate(why.floor_char_boundary(MESSAGE_LIMIT));
    let mut details = details(Reason::InvalidArgument);
    details.add_bad_request_violation(field, why.clone());
    Status::with_error_details(Code::InvalidArgument, format!("{field}: {why}"), details)
}

/// `INVALID_ARGUMENT` naming the field and the place in it. The line and the mark below it travel
/// as metadata, so that programs can draw them.
#[must_use]
pub fn mistake(field: &str, mistake: &Mistake) -> Status {
    let mut why = mistake.to_string();
    why.truncate(why.floor_char_boundary(MESSAGE_LIMIT));
    let (line, at) = mistake.excerpt();
    let place = [(LINE.to_owned(), line), (MARK.to_owned(), at.to_string())];
    let reason = Reason::InvalidArgument.as_str();
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, place);
    details.add_bad_request_violation(field, why.clone());
    Status::with_error_details(Code::InvalidArgument, format!("{field}: {why}"), details)
}

/// The one vague answer to every failed proof of identity.
#[must_use]
pub fn unauthenticated() -> Status {
    status(
        Code::Unauthenticated,
        Reason::Unauthenticated,
        "not authenticated",
    )
}

/// The one exception to that, for whoever proved to hold a key that was revoked: another try or
/// another token is of no use.
#[must_use]
pub fn revoked(cause: Cause, device_name: &str) -> Status {
    let device = match device_name {
        "" => String::new(),
        name => format!(" `{name}`"),
    };
    let (reason, what) = match cause {
        Cause::Deleted => (
            Reason::DeviceDeleted,
            format!("the device{device} of this key was deleted from the server"),
        ),
        Cause::Replaced => (
            Reason::KeyReplaced,
            format!("this key of the device{device} was replaced by another one"),
        ),
    };
    let message = format!(
        "{what}, so the key never works again; enrol this machine anew, with a new key and a new enrolment token"
    );
    retry_later(Code::Unauthenticated, reason, &message, REVOKED)
}

/// A defect: the chain is logged, the caller learns nothing of it.
#[must_use]
pub fn internal(error: &(dyn std::error::Error + 'static)) -> Status {
    tracing::error!(error = %chain(error), "internal error");
    status(
        Code::Internal,
        Reason::Internal,
        "an internal error; the server's log has the details",
    )
}

/// An error with all its causes on one line.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Some libraries repeat their cause in their own text.
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

fn details(reason: Reason) -> ErrorDetails {
    ErrorDetails::with_error_info(reason.as_str(), DOMAIN, [])
}

impl From<StoreError> for Status {
    fn from(error: StoreError) -> Self {
        let text = error.to_string();
        match error {
            StoreError::Unavailable(_) => {
                tracing::warn!(error = %chain(&error), "the database does not answer");
                retry_later(
                    Code::Unavailable,
                    Reason::StoreUnavailable,
                    "the database does not answer",
                    RETRY,
                )
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
            StoreError::Db(_) => internal(&error),
        }
    }
}

/// What an archive that will not do means; a function, because neither type is of this crate.
#[must_use]
pub fn archive(error: &ArchiveError) -> Status {
    let (code, reason) = match error {
        ArchiveError::Unsafe { .. } => (Code::InvalidArgument, Reason::UnsafeArchive),
        ArchiveError::ManifestMissing => (Code::InvalidArgument, Reason::ManifestMissing),
        ArchiveError::ManifestInvalid(_) => (Code::InvalidArgument, Reason::ManifestInvalid),
        ArchiveError::TooLarge { .. } => (Code::InvalidArgument, Reason::TooLarge),
        ArchiveError::Corrupt(_) => (Code::InvalidArgument, Reason::InvalidArgument),
        ArchiveError::Io(_) => return internal(error),
    };
    status(code, reason, error.to_string())
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Malformed { field, why } => invalid(field, why),
            Refused::NotAuthenticated(why) => {
                // Who asks is a stranger, of whom the log speaks once a minute.
                tracing::debug!(why, "enrolment refused");
                unauthenticated()
            }
            Refused::KeyRevoked { cause, device_name } => {
                tracing::info!(
                    device = device_name,
                    because = cause.as_str(),
                    "enrolment refused: the key is revoked"
                );
                revoked(cause, &device_name)
            }
            Refused::NameTaken(_) => status(
                Code::AlreadyExists,
                Reason::AlreadyExists,
                refused.to_string(),
            ),
            Refused::Store(error) => error.into(),
        }
    }
}

impl From<DownloadRefused> for Status {
    fn from(refused: DownloadRefused) -> Self {
        let text = refused.to_string();
        match refused {
            DownloadRefused::Unauthenticated => unauthenticated(),
            DownloadRefused::NotATarget => status(Code::PermissionDenied, Reason::NotAllowed, text),
            DownloadRefused::Gone => status(Code::NotFound, Reason::NotFound, text),
            DownloadRefused::Store(error) => error.into(),
        }
    }
}

impl From<BlobError> for Status {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::NotFound(_) => {
                status(Code::NotFound, Reason::NotFound, "the bundle is gone")
            }
            BlobError::Busy => retry_later(
                Code::ResourceExhausted,
                Reason::Overloaded,
                &error.to_string(),
                RETRY,
            ),
            BlobError::NoSpace => {
                tracing::error!("no space is left for bundles");
                status(Code::ResourceExhausted, Reason::NoSpace, error.to_string())
            }
            BlobError::Location(_) | BlobError::Io { .. } | BlobError::Store(_) => internal(&error),
        }
    }
}

#[cfg(test)]
mod tests;
