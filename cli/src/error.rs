//! What went wrong, in one sentence, with the next step and the exit code. This is the only such
//! table.
//!
//! Scripts rely on the exit codes, people on the next step. Nothing here matches on the text of an
//! error.

use std::{error::Error, fmt, path::Path};

use kernex_proto::{
    connect::{DialError, doctor::tls_error},
    error::{DOMAIN, LINE, MARK, Reason, chain},
};
use rustls::CertificateError;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::text::printable;

/// The exit code of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Everything without a code of its own.
    Error = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The deployment finished and did not succeed, or would not.
    DeploymentFailed = 3,
    /// No token, a bad token, or too low a role.
    NotAllowed = 4,
    /// It does not exist, or it conflicts with something else.
    NotFoundOrConflict = 5,
    /// Waiting took longer than `--timeout`; the deployment continues.
    TimedOut = 6,
    /// The control plane does not answer.
    Unreachable = 7,
    /// What is watched goes on only once an operator has decided.
    NeedsOperator = 8,
    /// Ctrl-C, by the convention of shells.
    Interrupted = 130,
}

impl Exit {
    /// The number the shell sees.
    pub(crate) const fn code(self) -> u8 {
        self as u8
    }
}

/// One failure, as it is printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The exit code.
    pub(crate) exit: Exit,
    pub(crate) message: String,
    /// The next step.
    pub(crate) next: String,
}

impl Failure {
    /// A failure with its next step.
    pub(crate) fn new(exit: Exit, message: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            next: next.into(),
        }
    }

    /// The command line asks for something impossible.
    pub(crate) fn usage(message: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message, next)
    }

    /// A file or folder could not be read or written.
    pub(crate) fn file(verb: &str, path: &Path, error: &std::io::Error) -> Self {
        let next = match error.kind() {
            std::io::ErrorKind::NotFound => "Check the path.",
            std::io::ErrorKind::PermissionDenied => "Check who owns it and its mode.",
            std::io::ErrorKind::StorageFull => "Free some space there.",
            std::io::ErrorKind::AlreadyExists => "Choose another name or remove what is there.",
            _ => "Check the path and the disk, then try again.",
        };
        Self::new(
            Exit::Error,
            format!("cannot {verb} `{}`: {error}", path.display()),
            next,
        )
    }

    /// The control plane cannot be reached.
    pub(crate) fn unreachable(server: &str, error: &(dyn Error + 'static)) -> Self {
        if let Some(rustls::Error::InvalidMessage(_)) = tls_error(error) {
            return Self::new(
                Exit::Unreachable,
                format!("cannot reach {server}: the port does not speak TLS"),
                "Check the port; http:// is for a server without TLS on this machine.",
            );
        }
        let next = match refused_certificate(error) {
            Some(
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. },
            ) => {
                return Self::new(
                    Exit::Unreachable,
                    format!(
                        "cannot reach {server}: {}; the clock of this machine shows {}",
                        chain(error),
                        crate::text::Time::now()
                    ),
                    "Set the clock if it is wrong; if it is right, restart the server, which renews its certificate.",
                );
            }
            Some(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
                "The server's certificate was not made by the CA of this context: take a fresh `ca.pem` from the server's \
                 data folder and run `kernexctl context add NAME --server URL --ca ca.pem ...` again."
            }
            None if is_of_proxy(error) => {
                "Check `--proxy`, `https_proxy` and `no_proxy`; a user's name and password stand in the proxy's URL, as in \
                 http://NAME:PASSWORD@HOST:PORT. `--proxy ''` goes without one."
            }
            Some(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            ) => {
                "The server's certificate is for other names: use one of them in the URL, or start the server with \
                 `--public-address` for this one."
            }
            _ => {
                "Check that the server runs and that this address is right (`kernexctl context list`); `kernexctl doctor` looks \
                 at each step."
            }
        };
        Self::new(
            Exit::Unreachable,
            format!("cannot reach {server}: {}", chain(error)),
            next,
        )
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n  next: {}", self.message, self.next)
    }
}

impl Error for Failure {}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let (exit, next) = match reason(&status) {
            Some(reason) => by_reason(reason),
            // The connection was cut in the middle: no server said that.
            None if is_cut(&status) => by_code(Code::Unavailable),
            None => by_code(status.code()),
        };
        let mut message = status.message().to_owned();
        if let Some(violations) = status.get_details_bad_request() {
            for violation in violations.field_violations {
                // The server may already have named the field in its sentence.
                if !message.contains(&violation.description) {
                    message.push_str(&format!("; {}: {}", violation.field, violation.description));
                }
            }
        }
        if let (true, Some(source)) = (
            status.code() == Code::Unavailable || is_cut(&status),
            status.source(),
        ) {
            message = format!("{message}: {}", chain(source));
        }
        if message.is_empty() {
            message = format!("the server answered: {}", status.code().description());
        }
        let mut message = printable(&message);
        if let Some((line, mark)) = marked_line(&status) {
            message.push_str(&format!("\n    {line}\n    {}^", " ".repeat(mark)));
        }
        Self::new(exit, message, next)
    }
}

/// The reason a server gave for a refusal, when this version knows it.
pub(crate) fn reason(status: &Status) -> Option<Reason> {
    status
        .get_details_error_info()
        .filter(|info| info.domain == DOMAIN)
        .and_then(|info| Reason::parse(&info.reason))
}

/// The line of a text field that is wrong, and the character in it.
fn marked_line(status: &Status) -> Option<(String, usize)> {
    let info = status.get_details_error_info()?;
    let line = printable(info.metadata.get(LINE)?);
    let mark: usize = info.metadata.get(MARK)?.parse().ok()?;
    (mark <= line.chars().count()).then_some((line, mark))
}

/// Whether the connection broke in the middle of the call.
fn is_cut(status: &Status) -> bool {
    matches!(status.code(), Code::Unknown | Code::Internal) && status.source().is_some()
}

/// Whether trying again in a moment makes sense.
pub(crate) fn is_passing(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Cancelled)
        // It comes as an unknown or internal error with the transport's error behind it.
        || is_cut(status)
        || matches!(reason(status), Some(Reason::Draining | Reason::Overloaded | Reason::SlowConsumer))
}

const LOGIN: &str = "Use a token that works: `kernexctl context add NAME --server URL --ca FILE --token-file FILE`.";

fn by_reason(reason: Reason) -> (Exit, &'static str) {
    match reason {
        Reason::Unauthenticated => (Exit::NotAllowed, LOGIN),
        Reason::NotAllowed => (
            Exit::NotAllowed,
            "Ask an administrator for a token with a higher role.",
        ),
        Reason::NotFound => (
            Exit::NotFoundOrConflict,
            "See what there is with `kernexctl device list`, `bundle list` or `deployment list`.",
        ),
        Reason::AlreadyExists => (
            Exit::NotFoundOrConflict,
            "Choose another name, or raise `version` in manifest.json: bundles never change.",
        ),
        Reason::InvalidArgument => (
            Exit::Usage,
            "Correct what is named above; `--help` shows the form.",
        ),
        Reason::NoTargets => (
            Exit::NotFoundOrConflict,
            "See which devices and labels there are with `kernexctl device list`.",
        ),
        Reason::NothingToRollBack => (
            Exit::NotFoundOrConflict,
            "See each device with `kernexctl deployment rollback ID --plan`; deploy a version you trust instead.",
        ),
        Reason::CursorGone => (
            Exit::NotFoundOrConflict,
            "Begin with what is kept, `--after 0`, or with what comes next, without `--after`.",
        ),
        Reason::UnsafeArchive => (
            Exit::Error,
            "Remove that entry and pack again; `kernexctl bundle pack` makes safe archives.",
        ),
        Reason::ManifestMissing => (
            Exit::Error,
            "Put a manifest.json at the top of the archive; `kernexctl bundle init` writes one.",
        ),
        Reason::ManifestInvalid => (
            Exit::Error,
            "Correct that field of manifest.json and pack again.",
        ),
        Reason::DigestMismatch => (
            Exit::Error,
            "The bytes changed on their way: push again, and check the file if it happens twice.",
        ),
        Reason::TooLarge => (
            Exit::Error,
            "Make the bundle smaller (see `.kernexignore`), or raise the server's limit.",
        ),
        Reason::NoSpace => (
            Exit::Error,
            "Free space on the server, for example with `kernexctl bundle delete`.",
        ),
        Reason::InUse => (
            Exit::NotFoundOrConflict,
            "Cancel the deployment that needs it, or deploy something else to those devices first.",
        ),
        Reason::Conflict => (
            Exit::NotFoundOrConflict,
            "Someone else changed it: read it again and repeat the change.",
        ),
        Reason::DeviceDeleted | Reason::KeyReplaced => (
            Exit::NotAllowed,
            "Enrol the machine anew: `kernex-agent enroll --new-key` with a new enrolment token.",
        ),
        Reason::CopyGivenUp => (
            Exit::NotAllowed,
            "Enrol it as a device of its own: empty its state folder and use a new enrolment token.",
        ),
        Reason::EpochNotIssued => (
            Exit::NotAllowed,
            "Decide with `kernexctl device resolve NAME`; if its agent is the true one, set its journal aside first.",
        ),
        Reason::ProtocolTooOld => (
            Exit::NotAllowed,
            "Update the agent, or start the server without `--min-protocol`.",
        ),
        Reason::ProtocolDowngraded => (
            Exit::NotAllowed,
            "If an older agent was put on the device: `kernexctl device resolve NAME --allow-downgrade`.",
        ),
        Reason::NotConflicted => (
            Exit::NotFoundOrConflict,
            "Only devices that `kernexctl device list` shows as conflicted need a decision.",
        ),
        Reason::RequestIdReused => (Exit::NotFoundOrConflict, "Run the command again."),
        Reason::WrongState => (
            Exit::NotFoundOrConflict,
            "See where it stands with `kernexctl deployment get ID`.",
        ),
        Reason::Finished => (
            Exit::NotFoundOrConflict,
            "Nothing is left to do; see `kernexctl deployment get ID`.",
        ),
        Reason::SessionReplaced | Reason::SlowConsumer => {
            (Exit::Unreachable, "Run the command again.")
        }
        Reason::TokenLimit => (
            Exit::Unreachable,
            "End a watch, wait for what is under way, or use a token of its own for each program.",
        ),
        Reason::Overloaded => (
            Exit::Unreachable,
            "The server is busy: try again in a moment.",
        ),
        Reason::Draining => (
            Exit::Unreachable,
            "The server is stopping: try again once it is back.",
        ),
        Reason::StoreUnavailable => (
            Exit::Unreachable,
            "The server's database does not answer: check it, then try again.",
        ),
        Reason::Internal => (
            Exit::Error,
            "This is a defect: the server's log has the details.",
        ),
    }
}

fn by_code(code: Code) -> (Exit, &'static str) {
    match code {
        Code::Unauthenticated => (Exit::NotAllowed, LOGIN),
        Code::PermissionDenied => by_reason(Reason::NotAllowed),
        Code::NotFound => by_reason(Reason::NotFound),
        Code::AlreadyExists => by_reason(Reason::AlreadyExists),
        Code::FailedPrecondition => by_reason(Reason::InUse),
        Code::Aborted => by_reason(Reason::Conflict),
        Code::InvalidArgument | Code::OutOfRange => by_reason(Reason::InvalidArgument),
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => (
            Exit::Unreachable,
            "Check that the server runs and the network between; repeating the command is safe.",
        ),
        Code::ResourceExhausted => by_reason(Reason::Overloaded),
        Code::Unimplemented => (
            Exit::Error,
            "The server does not know this call: check the address and the versions of both programs.",
        ),
        Code::Ok | Code::Unknown | Code::Internal | Code::DataLoss => by_reason(Reason::Internal),
    }
}

/// Whether a proxy is among the causes.
fn is_of_proxy(error: &(dyn Error + 'static)) -> bool {
    let dial = error.downcast_ref::<DialError>();
    dial.is_some_and(|dial| matches!(dial, DialError::Proxy(..)))
        || error.source().is_some_and(is_of_proxy)
}

/// Why TLS refused the server's certificate, when that is among the causes.
fn refused_certificate<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a CertificateError> {
    match tls_error(error)? {
        rustls::Error::InvalidCertificate(why) => Some(why),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use tonic_types::ErrorDetails;

    #[test]
    fn every_reason_has_an_exit_code_and_a_next_step() {
        for reason in Reason::ALL {
            let (exit, next) = by_reason(*reason);
            assert!((1..=7).contains(&exit.code()), "{reason:?}");
            assert!(!next.is_empty(), "{reason:?}");
        }
    }

    #[test]
    fn the_exit_code_follows_the_reason_before_the_code() {
        let status = Status::with_error_details(
            Code::InvalidArgument,
            "nothing matched",
            ErrorDetails::with_error_info(
                Reason::NoTargets.as_str(),
                DOMAIN,
                [] as [(String, String); 0],
            ),
        );
        assert_eq!(Failure::from(status).exit, Exit::NotFoundOrConflict);
    }

    #[test]
    fn codes_without_a_reason_have_their_exit_code() {
        let table = [
            (Code::Unauthenticated, 4),
            (Code::PermissionDenied, 4),
            (Code::NotFound, 5),
            (Code::AlreadyExists, 5),
            (Code::FailedPrecondition, 5),
            (Code::Aborted, 5),
            (Code::InvalidArgument, 2),
            (Code::Unavailable, 7),
            (Code::DeadlineExceeded, 7),
            (Code::Internal, 1),
            (Code::Unimplemented, 1),
        ];
        for (code, exit) in table {
            assert_eq!(
                Failure::from(Status::new(code, "x")).exit.code(),
                exit,
                "{code:?}"
            );
        }
    }

    #[test]
    fn a_reason_of_another_domain_is_not_ours() {
        let status = Status::with_error_details(
            Code::NotFound,
            "x",
            ErrorDetails::with_error_info("INTERNAL", "proxy.example", [] as [(String, String); 0]),
        );
        assert_eq!(reason(&status), None);
        assert_eq!(Failure::from(status).exit, Exit::NotFoundOrConflict);
    }

    #[test]
    fn a_certificate_that_is_refused_has_a_next_step_of_its_own() {
        let next = |why| {
            let tls = rustls::Error::InvalidCertificate(why);
            let tls = io::Error::new(io::ErrorKind::InvalidData, tls);
            let dial = kernex_proto::connect::DialError::Tls(tls);
            Failure::unreachable("https://h", &io::Error::other(dial)).next
        };
        for why in [
            CertificateError::UnknownIssuer,
            CertificateError::BadSignature,
        ] {
            assert!(next(why).contains("fresh `ca.pem`"));
        }
        assert!(next(CertificateError::NotValidForName).contains("--public-address"));
        assert!(next(CertificateError::Expired).contains("Set the clock"));
        assert!(next(CertificateError::NotValidYet).contains("Set the clock"));
        let message = rustls::InvalidMessage::InvalidContentType;
        let tls = io::Error::new(
            io::ErrorKind::InvalidData,
            rustls::Error::InvalidMessage(message),
        );
        let dial = kernex_proto::connect::DialError::Tls(tls);
        let plain = Failure::unreachable("https://h", &io::Error::other(dial));
        assert!(plain.message.contains("does not speak TLS"), "{plain}");
        // Only the error of TLS counts, not a text.
        let said = Failure::unreachable("https://h", &io::Error::other("UnknownIssuer"));
        assert!(said.next.contains("Check that the server runs"));
    }

    #[test]
    fn a_mark_is_put_below_the_mistake() {
        let refused = |mark: &str| {
            let marked_line = [
                (LINE.to_owned(), "site=berlin,".to_owned()),
                (MARK.to_owned(), mark.to_owned()),
            ];
            let reason = Reason::InvalidArgument.as_str();
            let details = ErrorDetails::with_error_info(reason, DOMAIN, marked_line);
            let status =
                Status::with_error_details(Code::InvalidArgument, "a key was expected", details);
            Failure::from(status).message
        };
        assert_eq!(
            refused("12"),
            "a key was expected\n    site=berlin,\n                ^"
        );
        for nonsense in ["13", "-1", "x"] {
            assert_eq!(refused(nonsense), "a key was expected");
        }
    }

    #[test]
    fn field_violations_are_said_once() {
        let status = Status::with_error_details(
            Code::InvalidArgument,
            "the request is not valid",
            ErrorDetails::with_bad_request_violation("selector", "`=` expected at 4"),
        );
        assert_eq!(
            Failure::from(status).message,
            "the request is not valid; selector: `=` expected at 4"
        );
    }
}
