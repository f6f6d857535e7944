//! What `doctor` finds once a connection is there: TLS, the certificate, its name, HTTP/2.

use std::{error::Error, io, time::Duration};

use rustls::CertificateError;
use tokio::{net::TcpStream, time::timeout};

use super::{CheckResult, CheckStep};
use crate::{
    connect::{AddressError, ControlPlane, DialError, proxy::Proxies},
    error::chain,
    trust::ServerTrust,
};

/// Names of a certificate that are listed; it may have hundreds.
const MOST_NAMES: usize = 8;

/// What HTTP/2 begins with, and an empty SETTINGS frame.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Begins HTTP/2 without TLS and looks at the first bytes of the answer.
pub(super) async fn plaintext(stream: &TcpStream, address: &str, limit: Duration) -> CheckResult {
    let asked = async {
        stream.writable().await?;
        stream.try_write(PREFACE)?;
        let mut head = [0; 9];
        loop {
            stream.readable().await?;
            match stream.try_read(&mut head) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read.map(|read| head[..read].to_vec()),
            }
        }
    };
    let tls = |text: String| {
        CheckResult::bad(
            CheckStep::Tls,
            text,
            format!("Write https:// instead of http:// in {address}, and give the server's CA."),
        )
    };
    match timeout(limit, asked).await {
        // A frame of the kind SETTINGS.
        Ok(Ok(head)) if head.get(3) == Some(&4) => {
            CheckResult::good(CheckStep::Tls, "HTTP/2 without TLS, as asked for")
        }
        // A TLS record: an alert, as a rule.
        Ok(Ok(head)) if matches!(head.as_slice(), [20..=23, 3, ..]) => {
            tls("the port speaks TLS, and http:// asks without".to_owned())
        }
        Ok(Ok(head)) if head.is_empty() => {
            tls("the port closes a connection without TLS; it probably expects TLS".to_owned())
        }
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => {
            tls("the port resets a connection without TLS; it probably expects TLS".to_owned())
        }
        Ok(Ok(_)) => CheckResult::bad(
            CheckStep::Tls,
            "something else than a control plane answers: it does not speak HTTP/2",
            "Check the port.",
        ),
        Ok(Err(error)) => CheckResult::bad(
            CheckStep::Tls,
            format!("the connection broke: {error}"),
            "Check what is between this machine and the server.",
        ),
        Err(_) => CheckResult::bad(
            CheckStep::Tls,
            format!("the port takes connections and says nothing for {limit:?}"),
            "Check the port: another program may listen there, or the server is stuck.",
        ),
    }
}

/// TLS, verified by what is trusted here.
pub(super) async fn encrypted(
    address: &str,
    trust: Option<ServerTrust>,
    proxies: &Proxies,
    now: i64,
    limit: Duration,
) -> Vec<CheckResult> {
    let control_plane = match ControlPlane::verified_by(address, trust, limit) {
        Ok(control_plane) => control_plane.through(proxies),
        Err(AddressError::NoCa(_)) => {
            return vec![CheckResult::bad(
                CheckStep::Certificate,
                "the CA of this control plane is not known here",
                "Give the `ca.pem` of the server's data folder.",
            )];
        }
        Err(error) => {
            return vec![CheckResult::bad(
                CheckStep::Address,
                error.to_string(),
                "Correct the address.",
            )];
        }
    };
    match control_plane.dial().await {
        Ok(_) => vec![
            CheckResult::good(CheckStep::Tls, "TLS 1.3 and HTTP/2"),
            CheckResult::good(CheckStep::Certificate, "made by a CA that is trusted here"),
            CheckResult::good(
                CheckStep::Name,
                format!("the certificate has the name in {address}"),
            ),
        ],
        Err(error) => vec![refused(&error, address, now, limit)],
    }
}

/// Why a dial over TLS failed.
fn refused(error: &DialError, address: &str, now: i64, limit: Duration) -> CheckResult {
    const CA: &str = "This may be another control plane, or somebody in between answers for it. After its CA was made anew, \
                      take a fresh `ca.pem` from its data folder; a device enrols again.";
    if let Some(mismatch) = name_mismatch(error) {
        return CheckResult::bad(
            CheckStep::Name,
            mismatch,
            "Use one of its names in the URL, or start the server with `--public-address` for this one.",
        );
    }
    if let Some(tls) = tls_error(error) {
        let rustls::Error::InvalidCertificate(why) = tls else {
            return match tls {
                rustls::Error::InvalidMessage(_) => CheckResult::bad(
                    CheckStep::Tls,
                    "the port does not speak TLS",
                    format!(
                        "Check the port of {address}; http:// is for a server without TLS on this machine."
                    ),
                ),
                other => CheckResult::bad(
                    CheckStep::Tls,
                    format!("TLS failed: {other}"),
                    "The server has to speak TLS 1.3; check what is between.",
                ),
            };
        };
        return match why {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => CheckResult::bad(
                CheckStep::Certificate,
                "the certificate was not made by a CA that is trusted here",
                CA,
            ),
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                CheckResult::bad(
                    CheckStep::Certificate,
                    format!(
                        "the certificate has expired by the clock of this machine ({now} s since 1970)"
                    ),
                    "Check the clock; if it is right, restart the server, which renews its certificate.",
                )
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                CheckResult::bad(
                    CheckStep::Clock,
                    format!(
                        "the certificate is not valid yet by the clock of this machine ({now} s since 1970)"
                    ),
                    "Set the clock of this machine, or that of the server, which is ahead.",
                )
            }
            other => CheckResult::bad(
                CheckStep::Certificate,
                format!("the certificate is refused: {other}"),
                CA,
            ),
        };
    }
    match error {
        DialError::Proxy(..) => CheckResult::bad(
            CheckStep::Proxy,
            chain(error),
            "Check `--proxy`, `https_proxy` and `no_proxy`, and that the proxy lets CONNECT through to this port.",
        ),
        DialError::NotHttp2 => CheckResult::bad(
            CheckStep::Tls,
            "the port speaks TLS, but no HTTP/2",
            "Check the port, and whether a proxy in between takes TLS apart.",
        ),
        DialError::TooSlow(_) => CheckResult::bad(
            CheckStep::Tls,
            format!("TLS does not begin within {limit:?}"),
            "Check the port: another program may listen there, or the server is stuck.",
        ),
        other => CheckResult::bad(
            CheckStep::Tls,
            format!("TLS broke off: {}", chain(other)),
            "Check the port, and what is between this machine and the server.",
        ),
    }
}

/// Which names the certificate has, when it was refused because the name that was asked for is none
/// of them; in words that begin a sentence.
#[must_use]
pub fn name_mismatch(error: &(dyn Error + 'static)) -> Option<String> {
    let rustls::Error::InvalidCertificate(why) = tls_error(error)? else {
        return None;
    };
    let (wanted, names) = match why {
        CertificateError::NotValidForName => {
            return Some("the certificate is for other names".to_owned());
        }
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => (expected.to_str(), presented),
        _ => return None,
    };
    if names.is_empty() {
        return Some(format!("the certificate has no names, and not {wanted}"));
    }
    let shown: Vec<&str> = names
        .iter()
        .take(MOST_NAMES)
        .map(|name| bare(name))
        .collect();
    let more = match names.len().saturating_sub(MOST_NAMES) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let shown = shown.join(", ");
    Some(format!(
        "the certificate is for {shown}{more}, not for {wanted}"
    ))
}

/// A name out of `DnsName("localhost")` or `IpAddress(127.0.0.1)`, as the library writes them.
fn bare(presented: &str) -> &str {
    let inner = presented
        .strip_suffix(')')
        .and_then(|text| text.split_once('('));
    inner.map_or(presented, |(_, name)| name.trim_matches('"'))
}

/// The error of TLS among the causes.
#[must_use]
pub fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(tls) = error.downcast_ref() {
        return Some(tls);
    }
    // `source()` of an `io::Error` skips the error inside it and returns the source of that.
    let inner = error.downcast_ref().and_then(io::Error::get_ref);
    inner
        .and_then(|inner| tls_error(inner))
        .or_else(|| tls_error(error.source()?))
}
