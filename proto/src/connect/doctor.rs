//! What lies between this machine and a control plane, step by step: the first step that fails says
//! why there is no connection. Nothing is sent but what begins a connection.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use http::Uri;
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};

use super::proxy::Proxies;
use crate::trust::ServerTrust;

mod tls;

pub use tls::{name_mismatch, tls_error};

use tls::{encrypted, plaintext};

/// Clocks that show less than this, in seconds since 1970, are wrong: it is the first of January
/// 2024.
const TOO_EARLY: i64 = 1_704_067_200;

/// What was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckStep {
    /// The clock of this machine.
    Clock,
    /// The text of the address.
    Address,
    /// The proxy on the way, when there is one: it looks the name up and connects.
    Proxy,
    /// The name becomes addresses.
    Dns,
    /// A connection to the port.
    Tcp,
    /// TLS 1.3 and HTTP/2 on it.
    Tls,
    /// The certificate is for the name that was dialled.
    Name,
    /// The certificate was made by a CA that is trusted, and its dates fit.
    Certificate,
}

impl CheckStep {
    /// Its name, in one word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Clock => "clock",
            Self::Address => "address",
            Self::Proxy => "proxy",
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
pub struct CheckResult {
    pub step: CheckStep,
    /// What was seen, in words.
    pub text: String,
    /// What to do about it; `None` when all is well.
    pub next: Option<String>,
}

impl CheckResult {
    fn good(step: CheckStep, text: impl Into<String>) -> Self {
        Self {
            step,
            text: text.into(),
            next: None,
        }
    }

    fn bad(step: CheckStep, text: impl Into<String>, next: impl Into<String>) -> Self {
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

/// Looks at every step to `address` and stops at the first that fails. `trust` verifies the
/// certificate, and `proxies` says what is on the way. `now` is the clock of this machine in
/// seconds since 1970; each step may take `limit`.
pub async fn examine(
    address: &str,
    trust: Option<ServerTrust>,
    proxies: &Proxies,
    now: i64,
    limit: Duration,
) -> Vec<CheckResult> {
    let mut findings = vec![clock(now)];
    let (uri, host, port) = match parts(address) {
        Ok(parts) => parts,
        Err(finding) => {
            findings.push(finding);
            return findings;
        }
    };
    if uri.scheme_str() == Some("https")
        && let Some(proxy) = proxies.on_the_way_to(&uri)
    {
        let found = encrypted(address, trust, proxies, now, limit).await;
        if !found.iter().any(|finding| finding.step == CheckStep::Proxy) {
            let text = format!("{} is on the way", proxy.shown());
            findings.push(CheckResult::good(CheckStep::Proxy, text));
        }
        findings.extend(found);
        return findings;
    }
    let addresses = match resolve(&host, port, limit).await {
        Ok(addresses) => addresses,
        Err(finding) => {
            findings.push(finding);
            return findings;
        }
    };
    if host.parse::<IpAddr>().is_err() {
        let all: Vec<String> = addresses.iter().map(|at| at.ip().to_string()).collect();
        findings.push(CheckResult::good(
            CheckStep::Dns,
            format!("{host} is {}", all.join(", ")),
        ));
    }
    let stream = match reach(&addresses, limit).await {
        Ok((at, stream)) => {
            findings.push(CheckResult::good(
                CheckStep::Tcp,
                format!("{at} takes connections"),
            ));
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
    findings.extend(encrypted(address, trust, proxies, now, limit).await);
    findings
}

/// Whether the clock of this machine can be right.
fn clock(now: i64) -> CheckResult {
    if now >= TOO_EARLY {
        return CheckResult::good(CheckStep::Clock, "the clock of this machine can be right");
    }
    CheckResult::bad(
        CheckStep::Clock,
        format!("the clock of this machine shows a time before 2024 ({now} s since 1970)"),
        "Set the clock: certificates and tokens have dates.",
    )
}

fn parts(address: &str) -> Result<(Uri, String, u16), CheckResult> {
    let wrong = |why: String| {
        CheckResult::bad(
            CheckStep::Address,
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

async fn resolve(host: &str, port: u16, limit: Duration) -> Result<Vec<SocketAddr>, CheckResult> {
    let found = match timeout(limit, lookup_host((host, port))).await {
        Ok(Ok(found)) => found.collect(),
        Ok(Err(error)) => {
            return Err(CheckResult::bad(
                CheckStep::Dns,
                format!("the name {host} is not known here: {error}"),
                "Check the name, and this machine's DNS server and search domains.",
            ));
        }
        Err(_) => {
            return Err(CheckResult::bad(
                CheckStep::Dns,
                format!("no DNS server answers for {host} within {limit:?}"),
                "Check this machine's DNS server and the network to it.",
            ));
        }
    };
    let found: Vec<SocketAddr> = found;
    if found.is_empty() {
        return Err(CheckResult::bad(
            CheckStep::Dns,
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
) -> Result<(SocketAddr, TcpStream), CheckResult> {
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
        return Err(CheckResult::bad(
            CheckStep::Dns,
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
    Err(CheckResult::bad(CheckStep::Tcp, text, next))
}

/// The first finding that needs something done.
#[must_use]
pub fn first_fault(findings: &[CheckResult]) -> Option<&CheckResult> {
    findings.iter().find(|finding| !finding.is_good())
}

#[cfg(test)]
mod tests;
