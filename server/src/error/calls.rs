//! What any call may meet, whatever it asks for: before its handler runs, and while its stream goes
//! on.

use std::time::Duration;

use kernex_proto::error::Reason;
use tonic::{Code, Status};

use super::{RETRY, retry_later, status};
use crate::store::Role;

/// The server stops. The caller comes back.
#[must_use]
pub fn going_away() -> Status {
    retry_later(
        Code::Unavailable,
        Reason::Draining,
        "the server is stopping",
        RETRY,
    )
}

/// Too many do the same at once.
#[must_use]
pub fn busy(why: &str, after: Duration) -> Status {
    retry_later(Code::ResourceExhausted, Reason::Overloaded, why, after)
}

/// There is no such path, or `edge/auth/policy.rs` does not say who may call it.
#[must_use]
pub fn no_such_method() -> Status {
    Status::unimplemented("no such method")
}

/// The call brings no token.
#[must_use]
pub fn token_needed() -> Status {
    status(
        Code::Unauthenticated,
        Reason::Unauthenticated,
        "an operator token is needed in the `authorization: Bearer` metadata",
    )
}

/// The token was revoked or has expired, before the call or while it went on. Whoever brought it
/// has its secret.
#[must_use]
pub fn token_ended(why: &str) -> Status {
    status(Code::Unauthenticated, Reason::Unauthenticated, why)
}

/// The operator `name` may not call this.
#[must_use]
pub fn role_needed(needed: Role, name: &str, has: Role) -> Status {
    status(
        Code::PermissionDenied,
        Reason::NotAllowed,
        format!("this needs the role {needed}, and `{name}` has the role {has}"),
    )
}

/// The caller has as many streams, uploads or plans as one caller may have.
#[must_use]
pub fn token_limit(why: String) -> Status {
    status(Code::ResourceExhausted, Reason::TokenLimit, why)
}

/// The reader of a stream takes too little of it.
#[must_use]
pub fn slow_reader(why: String) -> Status {
    status(Code::ResourceExhausted, Reason::SlowConsumer, why)
}

/// What follows the event `cursor` is not kept any more, or never was.
#[must_use]
pub fn cursor_gone(cursor: u64, oldest: u64, newest: u64) -> Status {
    let text = if cursor > newest {
        format!("event {cursor} has not happened yet: the newest is {newest}")
    } else {
        format!("what follows event {cursor} is not kept: there are events {oldest} to {newest}")
    };
    status(Code::OutOfRange, Reason::CursorGone, text)
}

/// A message has more bytes than its sender may send.
#[must_use]
pub fn message_too_long(length: u32, most: u32) -> Status {
    Status::out_of_range(format!(
        "a message of {length} bytes is too long here: at most {most}"
    ))
}

/// The deadline of the caller or of the server has passed.
#[must_use]
pub fn call_too_slow() -> Status {
    Status::deadline_exceeded("the time for this call is over")
}

/// What the connection below a call reported.
#[must_use]
pub fn transport(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Status {
    Status::from_error(error.into())
}

/// The connection below a call ended, and its caller had not finished what it sends.
#[must_use]
pub fn not_ended() -> Status {
    Status::unavailable("the connection ended before the request did")
}

/// A defect that only our own code can cause. `what` names it.
#[must_use]
pub fn defect(what: &'static str) -> Status {
    Status::internal(what)
}
