//! Whether a release is healthy: a pure decision over probe results and time, and the probes that
//! need no script.

use std::{pin::pin, time::Duration};

use http_body_util::Empty;
use hyper::{Request, Uri, body::Bytes, client::conn::http1, header::HOST};
use hyper_util::rt::TokioIo;
use kernex_proto::manifest::Health;
use tokio::net::TcpStream;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HealthVerdict {
    /// It has shown that it is healthy.
    Healthy,
    /// More probes failed than the manifest forgives.
    Unhealthy,
    /// Probe again at this instant.
    Wait(Duration),
}

/// What the probes have shown so far.
#[derive(Debug)]
pub(crate) struct HealthWatch<'a> {
    health: &'a Health,
    failures: u64,
    healthy_since: Option<Duration>,
}

impl<'a> HealthWatch<'a> {
    pub(crate) fn new(health: &'a Health) -> Self {
        Self {
            health,
            failures: 0,
            healthy_since: None,
        }
    }

    /// Takes in how a probe that was sent at `sent` ended at `now`, both on the same clock.
    pub(crate) fn observe(
        &mut self,
        healthy: bool,
        sent: Duration,
        now: Duration,
    ) -> HealthVerdict {
        let next = now.saturating_add(self.health.interval());
        if !healthy {
            self.healthy_since = None;
            self.failures += 1;
            if self.failures > self.health.retries {
                return HealthVerdict::Unhealthy;
            }
            return HealthVerdict::Wait(next);
        }
        // What a probe shows is true from its start on at the earliest, so a slow answer does not
        // lengthen the hold.
        let since = *self.healthy_since.get_or_insert(now);
        let held_at = since.saturating_add(self.health.hold());
        if sent.max(since) >= held_at {
            return HealthVerdict::Healthy;
        }
        // The last probe comes when the hold is over, not an interval later.
        HealthVerdict::Wait(next.min(held_at).max(now))
    }

    pub(crate) fn failures(&self) -> u64 {
        self.failures
    }
}

pub(crate) async fn probe_tcp(address: &str) -> Result<(), String> {
    TcpStream::connect(address)
        .await
        .map(drop)
        .map_err(|err| format!("{address}: {err}"))
}

/// Asks for an address. A status of 200 to 399 is healthy.
pub(crate) async fn probe_http(address: &str) -> Result<(), String> {
    let status = http_status(address)
        .await
        .map_err(|err| format!("{address}: {err}"))?;
    match status.as_u16() {
        200..=399 => Ok(()),
        _ => Err(format!("{address}: answered {status}")),
    }
}

async fn http_status(
    address: &str,
) -> Result<hyper::StatusCode, Box<dyn std::error::Error + Send + Sync>> {
    let uri: Uri = address.parse()?;
    let host = uri.host().unwrap_or_default();
    let port = uri.port_u16().unwrap_or(80);
    // An IPv6 address stands in brackets, which the resolver does not know.
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((bare, port)).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = uri.authority().map_or(host, |authority| authority.as_str());
    let request = Request::get(path)
        .header(HOST, authority)
        .header(hyper::header::USER_AGENT, "kernex-agent")
        .body(Empty::<Bytes>::new())?;
    // The connection makes progress only while it is polled, and ends with this probe. When it ends
    // first, it has handed over its answer, if there was one.
    let mut response = pin!(sender.send_request(request));
    let response = tokio::select! {
        response = &mut response => response,
        _ = connection => response.await,
    };
    Ok(response?.status())
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;
