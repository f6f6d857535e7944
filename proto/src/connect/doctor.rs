//! What lies between this machine and a control plane, step by step: the first step that fails says
//! why there is no connection. Nothing is sent but what begins a connection.

use std::{
    error::Error,
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use http::Uri;
use rustls::CertificateError;
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};

use super::{AddressError, ControlPlane, DialError};
use crate::{
    error::chain,
    trust::{Dates, PinnedCa},
};

/// Clocks that show less than this, in seconds since 1970, are wrong: it is the first of January
/// 2024.
const TOO_EARLY: i64 = 1_704_067_200;

/// What was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The clock of this machine.
    Clock,
    /// The text of the address.
    Address,
    /// The name becomes addresses.
    Dns,
    /// A connection to the port.
    Tcp,
    /// TLS 1.3 and HTTP/2 on it.
    Tls,
    /// The certificate is for the name that was dialled.
    Name,
    /// The certificate was made by the pinned CA, and its dates fit.
    Certificate,
}

impl Step {
    /// Its name, in one word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Clock => "clock",
            Self::Address => "address",
            Self::Dns => "dns",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Name => "name",
            Self::Certificate => "certificate",
        }
    }
}

/// What was found at one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where.
    pub step: Step,
    /// What was seen, in words.
    pub text: String,
    /// What to do about it; `None` when all is well.
    pub next: Option<String>,
}

impl Finding {
    fn good(step: Step, text: impl Into<String>) -> Self {
        Self {
            step,
            text: text.into(),
            next: None,
        }
    }

    fn bad(step: Step, text: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            step,
            text: text.into(),
            next: Some(next.into()),
        }
    }

    /// Whether nothing is to be done.
    #[must_use]
    pub const fn is_good(&self) -> bool {
        self.next.is_none()
    }
}

/// Looks at every step to `address` and stops at the first that fails. `now` is the clock of this
/// machine in seconds since 1970; each step may take `limit`.
pub async fn examine(
    address: &str,
    ca_pem: Option<&str>,
    dates: Dates,
    now: i64,
    limit: Duration,
) -> Vec<Finding> {
    let mut findings = vec![clock(now)];
    let (uri, host, port) = match parts(address) {
        Ok(parts) => parts,
        Err(finding) => {
            findings.push(finding);
            return findings;
        }
    };
    let addresses = match resolve(&host, port, limit).await {
        Ok(addresses) => addresses,
        Err(finding) => {
            findings.push(finding);
            return findings;
        }
    };
    if host.parse::<IpAddr>().is_err() {
        let all: Vec<String> = addresses.iter().map(|at| at.ip().to_string()).collect();
        findings.push(Finding::good(
            Step::Dns,
            format!("{host} is {}", all.join(", ")),
        ));
    }
    let stream = match reach(&addresses, limit).await {
        Ok((at, stream)) => {
            findings.push(Finding::good(Step::Tcp, format!("{at} takes connections")));
            stream
        }
        Err(finding) => {
            findings.push(finding);
            return findings;
        }
    };
    if uri.scheme_str() == Some("http") {
        findings.push(plaintext(&stream, address, limit).await);
        return findings;
    }
    drop(stream);
    findings.extend(encrypted(address, ca_pem, dates, now, limit).await);
    findings
}

/// Whether the clock of this machine can be right.
fn clock(now: i64) -> Finding {
    if now >= TOO_EARLY {
        return Finding::good(Step::Clock, "the clock of this machine can be right");
    }
    Finding::bad(
        Step::Clock,
        format!("the clock of this machine shows a time before 2024 ({now} s since 1970)"),
        "Set the clock: certificates and tokens have dates.",
    )
}

fn parts(address: &str) -> Result<(Uri, String, u16), Finding> {
    let wrong = |why: String| {
        Finding::bad(
            Step::Address,
            why,
            "Write it like https://kernex.example.com:7443.",
        )
    };
    let uri: Uri = address
        .parse()
        .map_err(|_| wrong(format!("`{address}` is no address")))?;
    let host = uri
        .host()
        .ok_or_else(|| wrong(format!("`{address}` names no host")))?;
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let port = match (uri.scheme_str(), uri.port_u16()) {
        (Some("https"), port) => port.unwrap_or(443),
        (Some("http"), port) => port.unwrap_or(80),
        _ => {
            let why = format!("`{address}` begins with neither https:// nor http://");
            return Err(wrong(why));
        }
    };
    Ok((uri, host, port))
}

async fn resolve(host: &str, port: u16, limit: Duration) -> Result<Vec<SocketAddr>, Finding> {
    let found = match timeout(limit, lookup_host((host, port))).await {
        Ok(Ok(found)) => found.collect(),
        Ok(Err(error)) => {
            return Err(Finding::bad(
                Step::Dns,
                format!("the name {host} is not known here: {error}"),
                "Check the name, and this machine's DNS server and search domains.",
            ));
        }
        Err(_) => {
            return Err(Finding::bad(
                Step::Dns,
                format!("no DNS server answers for {host} within {limit:?}"),
                "Check this machine's DNS server and the network to it.",
            ));
        }
    };
    let found: Vec<SocketAddr> = found;
    if found.is_empty() {
        return Err(Finding::bad(
            Step::Dns,
            format!("the name {host} has no address"),
            "Check the name in the DNS.",
        ));
    }
    Ok(found)
}

/// The first address that takes a connection, or why the last one took none.
async fn reach(
    addresses: &[SocketAddr],
    limit: Duration,
) -> Result<(SocketAddr, TcpStream), Finding> {
    let mut last = None;
    for at in addresses {
        let error = match timeout(limit, TcpStream::connect(at)).await {
            Ok(Ok(stream)) => return Ok((*at, stream)),
            Ok(Err(error)) => error,
            Err(_) => io::ErrorKind::TimedOut.into(),
        };
        last = Some((*at, error));
    }
    let Some((at, error)) = last else {
        return Err(Finding::bad(
            Step::Dns,
            "no address was found",
            "Check the name.",
        ));
    };
    let (text, next) = match error.kind() {
        io::ErrorKind::ConnectionRefused => (
            format!("nothing listens on {at}"),
            "Check the port, and that the server runs and listens on this address (`--listen`).",
        ),
        io::ErrorKind::TimedOut => (
            format!("{at} does not answer within {limit:?}"),
            "A firewall drops the packets, or the machine is off: check both, and the port.",
        ),
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => (
            format!("there is no way to {at}: {error}"),
            "Check the network of this machine and its routes.",
        ),
        _ => (
            format!("no connection to {at}: {error}"),
            "Check the network between this machine and the server.",
        ),
    };
    Err(Finding::bad(Step::Tcp, text, next))
}

/// What HTTP/2 begins with, and an empty SETTINGS frame.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Begins HTTP/2 without TLS and looks at the first bytes of the answer.
async fn plaintext(stream: &TcpStream, address: &str, limit: Duration) -> Finding {
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
        Finding::bad(
            Step::Tls,
            text,
            format!("Write https:// instead of http:// in {address}, and give the server's CA."),
        )
    };
    match timeout(limit, asked).await {
        // A frame of the kind SETTINGS.
        Ok(Ok(head)) if head.get(3) == Some(&4) => {
            Finding::good(Step::Tls, "HTTP/2 without TLS, as asked for")
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
        Ok(Ok(_)) => Finding::bad(
            Step::Tls,
            "something else than a control plane answers: it does not speak HTTP/2",
            "Check the port.",
        ),
        Ok(Err(error)) => Finding::bad(
            Step::Tls,
            format!("the connection broke: {error}"),
            "Check what is between this machine and the server.",
        ),
        Err(_) => Finding::bad(
            Step::Tls,
            format!("the port takes connections and says nothing for {limit:?}"),
            "Check the port: another program may listen there, or the server is stuck.",
        ),
    }
}

/// TLS against the pinned CA.
async fn encrypted(
    address: &str,
    ca_pem: Option<&str>,
    dates: Dates,
    now: i64,
    limit: Duration,
) -> Vec<Finding> {
    let trust = ca_pem.and_then(|pem| PinnedCa::from_pem(pem, dates));
    if let (Some(_), None) = (ca_pem, &trust) {
        return vec![Finding::bad(
            Step::Certificate,
            "the CA that is to be trusted is no certificate in PEM form",
            "Take a fresh `ca.pem` from the server's data folder.",
        )];
    }
    let control_plane = match ControlPlane::new(address, trust, limit) {
        Ok(control_plane) => control_plane,
        Err(AddressError::NoCa(_)) => {
            return vec![Finding::bad(
                Step::Certificate,
                "the CA of this control plane is not known here",
                "Give the `ca.pem` of the server's data folder.",
            )];
        }
        Err(error) => {
            return vec![Finding::bad(
                Step::Address,
                error.to_string(),
                "Correct the address.",
            )];
        }
    };
    match control_plane.dial().await {
        Ok(_) => vec![
            Finding::good(Step::Tls, "TLS 1.3 and HTTP/2"),
            Finding::good(Step::Certificate, "the certificate is from the pinned CA"),
            Finding::good(Step::Name, "and for this name"),
        ],
        Err(error) => vec![refused(&error, address, now, limit)],
    }
}

/// Why a dial over TLS failed.
fn refused(error: &DialError, address: &str, now: i64, limit: Duration) -> Finding {
    const CA: &str = "Take a fresh `ca.pem` from the server's data folder; somebody in between may also answer for it.";
    if let Some(tls) = tls_error(error) {
        let rustls::Error::InvalidCertificate(why) = tls else {
            return match tls {
                rustls::Error::InvalidMessage(_) => Finding::bad(
                    Step::Tls,
                    "the port does not speak TLS",
                    format!(
                        "Check the port of {address}; http:// is for a server without TLS on this machine."
                    ),
                ),
                other => Finding::bad(
                    Step::Tls,
                    format!("TLS failed: {other}"),
                    "The server has to speak TLS 1.3; check what is between.",
                ),
            };
        };
        return match why {
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Finding::bad(
                    Step::Name,
                    format!("the certificate is for other names than that in {address}"),
                    "Use one of its names in the URL, or start the server with `--public-address` for this one.",
                )
            }
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Finding::bad(
                Step::Certificate,
                "the certificate was not made by the CA that is trusted here",
                CA,
            ),
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Finding::bad(
                Step::Certificate,
                format!(
                    "the certificate has expired by the clock of this machine ({now} s since 1970)"
                ),
                "Check the clock; if it is right, restart the server, which renews its certificate.",
            ),
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Finding::bad(
                    Step::Clock,
                    format!(
                        "the certificate is not valid yet by the clock of this machine ({now} s since 1970)"
                    ),
                    "Set the clock of this machine, or that of the server, which is ahead.",
                )
            }
            other => Finding::bad(
                Step::Certificate,
                format!("the certificate is refused: {other}"),
                CA,
            ),
        };
    }
    match error {
        DialError::NotHttp2 => Finding::bad(
            Step::Tls,
            "the port speaks TLS, but no HTTP/2",
            "Check the port, and whether a proxy in between takes TLS apart.",
        ),
        DialError::TooSlow(_) => Finding::bad(
            Step::Tls,
            format!("TLS does not begin within {limit:?}"),
            "Check the port: another program may listen there, or the server is stuck.",
        ),
        other => Finding::bad(
            Step::Tls,
            format!("TLS broke off: {}", chain(other)),
            "Check the port, and what is between this machine and the server.",
        ),
    }
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

/// The first finding that needs something done.
#[must_use]
pub fn first_fault(findings: &[Finding]) -> Option<&Finding> {
    findings.iter().find(|finding| !finding.is_good())
}

#[cfg(test)]
mod tests;
