//! What went wrong, in one sentence, with the next step and the exit code.
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

mod next_step;

use next_step::{by_code, by_reason};

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
    /// What is watched waits for an operator.
    NeedsOperator = 8,
    /// Ctrl-C, by the convention of shells.
    Interrupted = 130,
    /// SIGTERM, by the same convention.
    Terminated = 143,
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

    /// The failure of a call, with a next step of its own where it was refused for this reason.
    pub(crate) fn of_call(status: Status, on: Reason, next: impl Into<String>) -> Self {
        let is_that = reason(&status) == Some(on);
        let failure = Self::from(status);
        if is_that {
            return Self {
                next: next.into(),
                ..failure
            };
        }
        failure
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

    /// The control plane cannot be reached by a caller that trusts the authorities of its machine.
    pub(crate) fn unreachable_by_name(server: &str, error: &(dyn Error + 'static)) -> Self {
        let failure = Self::unreachable(server, error);
        match refused_certificate(error) {
            Some(CertificateError::UnknownIssuer | CertificateError::BadSignature) => Self {
                next: "No authority that this machine trusts made the server's certificate: add that authority to those \
                       of the machine, or take the server's own CA, `kernexctl context add NAME --server URL --ca ca.pem \
                       ... --replace`."
                    .to_owned(),
                ..failure
            },
            _ => failure,
        }
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
            message = with_causes(message, source);
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

/// A sentence and its causes. What it says itself is not said twice.
fn with_causes(mut message: String, source: &(dyn Error + 'static)) -> String {
    let mut cause = Some(source);
    while let Some(error) = cause {
        let text = error.to_string();
        if !message.contains(&text) {
            message.push_str(&format!(": {text}"));
        }
        cause = error.source();
    }
    message
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
mod tests;
