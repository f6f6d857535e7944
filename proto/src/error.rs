//! The machine-readable reasons in `google.rpc.ErrorInfo`, shared so that clients match on them and
//! not on texts; and the one text of an error with its causes.

use std::error::Error;

/// Domain of every `ErrorInfo` Kernex sends.
pub const DOMAIN: &str = "kernex.v1";

/// Metadata of an `ErrorInfo`: the line of a text field that is wrong.
pub const LINE: &str = "line";

/// And the character of that line the mistake is at, counted from 0.
pub const MARK: &str = "mark";

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $text:literal),+ $(,)?) => {
        /// Why a call was refused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[$doc])* $variant),+ }

        impl Reason {
            /// Every reason, for tests of tables.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The text on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// The reason behind a text, if this version knows it.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

reasons! {
    /// No token, or one that does not work.
    Unauthenticated = "UNAUTHENTICATED",
    /// The key that was proved is of a device that was deleted. It never works again.
    DeviceDeleted = "DEVICE_DELETED",
    /// The key that was proved was replaced by another one for its device. It never works again.
    KeyReplaced = "KEY_REPLACED",
    /// The role is too low, or it does not belong to the caller.
    NotAllowed = "NOT_ALLOWED",
    /// No such thing.
    NotFound = "NOT_FOUND",
    /// The name or identity is taken.
    AlreadyExists = "ALREADY_EXISTS",
    /// A field is wrong.
    InvalidArgument = "INVALID_ARGUMENT",
    /// Nothing matched the selector.
    NoTargets = "NO_TARGETS",
    /// The archive holds something that is never unpacked.
    UnsafeArchive = "UNSAFE_ARCHIVE",
    /// No manifest.json in the archive.
    ManifestMissing = "MANIFEST_MISSING",
    /// The manifest is not valid: a field is missing or has a wrong value.
    ManifestInvalid = "MANIFEST_INVALID",
    /// The bytes do not have the digest that was promised.
    DigestMismatch = "DIGEST_MISMATCH",
    /// Too large for the configured limit.
    TooLarge = "TOO_LARGE",
    /// The disk is full.
    NoSpace = "NO_SPACE",
    /// Something needs it.
    InUse = "IN_USE",
    /// The revision moved on.
    Conflict = "CONFLICT",
    /// The same request id came with another body.
    RequestIdReused = "REQUEST_ID_REUSED",
    /// An operator decided against this copy of a device; it has to enrol with a key of its own.
    CopyGivenUp = "COPY_GIVEN_UP",
    /// The agent says it has a session number that this server never gave; the device is
    /// conflicted.
    EpochNotIssued = "EPOCH_NOT_ISSUED",
    /// The server accepts newer revisions of the session protocol only.
    ProtocolTooOld = "PROTOCOL_TOO_OLD",
    /// The device spoke a newer revision of the session protocol before, or says that it could.
    ProtocolDowngraded = "PROTOCOL_DOWNGRADED",
    /// The device is not conflicted; there is nothing to decide.
    NotConflicted = "NOT_CONFLICTED",
    /// The state of the deployment does not allow it.
    WrongState = "WRONG_STATE",
    /// It is finished already.
    Finished = "FINISHED",
    /// No device of a deployment can go back.
    NothingToRollBack = "NOTHING_TO_ROLL_BACK",
    /// It is the last admin token that works.
    LastAdmin = "LAST_ADMIN",
    /// The events after a cursor are not kept, or the cursor is of another history.
    CursorGone = "CURSOR_GONE",
    /// A newer session took over.
    SessionReplaced = "SESSION_REPLACED",
    /// The peer did not keep up and its queue was full.
    SlowConsumer = "SLOW_CONSUMER",
    /// The token has as many streams, uploads or plans under way as it may.
    TokenLimit = "TOKEN_LIMIT",
    /// Too much at once; come back later.
    Overloaded = "OVERLOADED",
    /// The server is stopping.
    Draining = "DRAINING",
    /// The database does not answer.
    StoreUnavailable = "STORE_UNAVAILABLE",
    /// A defect.
    Internal = "INTERNAL",
}

/// An error with all its causes on one line, each said once: "no connection: connection refused".
#[must_use]
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some libraries repeat their cause in their own text.
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Failed {
        text: &'static str,
        #[source]
        source: Option<Box<Failed>>,
    }

    fn failed(text: &'static str, source: Option<Failed>) -> Failed {
        let source = source.map(Box::new);
        Failed { text, source }
    }

    #[test]
    fn an_error_is_told_with_each_of_its_causes_once() {
        let refused = || failed("connection refused", None);
        let table = [
            (refused(), "connection refused"),
            (
                failed("no session", Some(failed("no connection", Some(refused())))),
                "no session: no connection: connection refused",
            ),
            (
                failed("cannot connect: connection refused", Some(refused())),
                "cannot connect: connection refused",
            ),
        ];
        for (error, text) in table {
            assert_eq!(chain(&error), text);
        }
    }

    #[test]
    fn every_reason_survives_its_text() {
        for reason in Reason::ALL {
            assert_eq!(Reason::parse(reason.as_str()), Some(*reason));
        }
    }
}
