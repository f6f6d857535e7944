//! All `tonic::Status`es of the server are made here: a code, a reason that clients match on, and
//! details where they help. Nothing outside of this file and its folder makes one. A test reads the
//! source for that.
//!
//! `error/table.rs` has one entry for each error type of the server. `error/calls.rs` has what any
//! call may meet, whatever it asks for. This file has what both are made of. The message holds what
//! the caller may know. The whole chain goes to the log here, once.

use std::time::Duration;

pub use kernex_proto::error::chain;
use kernex_proto::error::{DOMAIN, LINE, MARK, Reason};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::{domain::parse_error::ParseError, revocations::Cause};

mod calls;
mod table;
#[cfg(test)]
mod tests;

pub use self::{
    calls::{
        busy, call_too_slow, cursor_gone, defect, going_away, message_too_long, no_such_method,
        not_ended, role_needed, slow_reader, token_ended, token_limit, token_needed, transport,
    },
    table::archive,
};

/// When to try again after a short trouble of the server.
const RETRY: Duration = Duration::from_secs(1);

/// When a revoked key may try again. Somebody may have restored the database by then.
const REVOKED: Duration = Duration::from_secs(10 * 60);

/// Longest message of a status in bytes. Headers carry it, so it is far below their limit.
const MESSAGE_LIMIT: usize = 1024;

/// A Status with its reason.
fn status(code: Code, reason: Reason, message: impl Into<String>) -> Status {
    let mut message = message.into();
    if message.len() > MESSAGE_LIMIT {
        let cut = message.floor_char_boundary(MESSAGE_LIMIT);
        message.truncate(cut);
    }
    Status::with_error_details(code, message, details(reason))
}

/// A Status that says when to come back.
fn retry_later(code: Code, reason: Reason, message: &str, after: Duration) -> Status {
    let mut details = details(reason);
    details.set_retry_info(Some(after));
    Status::with_error_details(code, message, details)
}

/// `INVALID_ARGUMENT` for a field of the request.
#[must_use]
pub fn invalid(field: &str, why: impl Into<String>) -> Status {
    let mut why = why.into();
    why.truncate(why.floor_char_boundary(MESSAGE_LIMIT));
    let mut details = details(Reason::InvalidArgument);
    details.add_bad_request_violation(field, why.clone());
    Status::with_error_details(Code::InvalidArgument, format!("{field}: {why}"), details)
}

/// `INVALID_ARGUMENT` for a field, with the place in it. The line and the mark below it travel as
/// metadata, so that programs can draw them.
#[must_use]
pub fn unreadable(field: &str, error: &ParseError) -> Status {
    let mut why = error.to_string();
    why.truncate(why.floor_char_boundary(MESSAGE_LIMIT));
    let (line, at) = error.excerpt();
    let place = [(LINE.to_owned(), line), (MARK.to_owned(), at.to_string())];
    let reason = Reason::InvalidArgument.as_str();
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, place);
    details.add_bad_request_violation(field, why.clone());
    Status::with_error_details(Code::InvalidArgument, format!("{field}: {why}"), details)
}

/// `INVALID_ARGUMENT` for a message that ends a session.
#[must_use]
pub fn malformed(why: &str) -> Status {
    status(Code::InvalidArgument, Reason::InvalidArgument, why)
}

/// A session whose device has sent no heartbeats.
#[must_use]
pub fn silent() -> Status {
    Status::deadline_exceeded("no heartbeat for three intervals")
}

/// The one vague answer to all failed proofs of identity.
#[must_use]
pub fn unauthenticated() -> Status {
    status(
        Code::Unauthenticated,
        Reason::Unauthenticated,
        "not authenticated",
    )
}

/// The one exception, for a caller who has proved to have a revoked key: no other try and no other
/// token would help.
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

/// A defect. The chain is logged, and the caller learns nothing of it.
#[must_use]
pub fn internal(error: &(dyn std::error::Error + 'static)) -> Status {
    tracing::error!(error = %chain(error), "internal error");
    status(
        Code::Internal,
        Reason::Internal,
        "an internal error; the server's log has the details",
    )
}

fn details(reason: Reason) -> ErrorDetails {
    ErrorDetails::with_error_info(reason.as_str(), DOMAIN, [])
}
