//! Figures by the part of the server that moves them.

use prometheus_client::metrics::{
    counter::Counter, family::Family, gauge::Gauge, histogram::Histogram,
};

use super::{
    instruments::{Labelled, seconds, sizes},
    labels::{CERTIFICATES, CONNECTION_RESULTS, HANDSHAKE_RESULTS, REFUSAL_REASONS, TOKEN_ENDS},
};
use crate::domain::{device::DeviceStatus, rollout::DeploymentState};

/// Connections and calls.
#[derive(Debug)]
pub struct EdgeMetrics {
    /// Connections by what became of them while they were strangers.
    pub connections: Labelled<Counter>,
    /// Connections that are open now.
    pub connections_open: Gauge,
    /// Connections on which nothing has authenticated.
    pub strangers: Gauge,
    /// Refused strangers by reason: their calls, and their connections.
    pub refusals: Labelled<Counter>,
    /// Bytes of bundles by direction: `down` to devices and operators, `up` from operators.
    pub bundle_bytes: Labelled<Counter>,
    /// Open watches of deployments and events.
    pub watchers: Gauge,
    /// Readers that took nothing, by what became of them: their stream `ended`, or their connection
    /// `disconnected`.
    pub slow_readers: Labelled<Counter>,
    /// Calls that were refused because their token had as many under way as it may.
    pub token_limit: Counter,
}

impl EdgeMetrics {
    pub(super) fn new() -> Self {
        Self {
            connections: Labelled::new("result", CONNECTION_RESULTS),
            connections_open: Gauge::default(),
            strangers: Gauge::default(),
            refusals: Labelled::new("reason", REFUSAL_REASONS),
            bundle_bytes: Labelled::new("direction", ["down", "up"]),
            watchers: Gauge::default(),
            slow_readers: Labelled::new("result", ["ended", "disconnected"]),
            token_limit: Counter::default(),
        }
    }
}

/// Sessions of devices.
#[derive(Debug)]
pub struct SessionMetrics {
    /// Handshakes by result: `opened`, or why not.
    pub handshakes: Labelled<Counter>,
    /// Sessions that are open now; read at a scrape.
    pub open: Gauge,
    /// Sessions opened, confirmed and closed in one transaction.
    pub flush: Histogram,
    /// Messages of devices beyond their limits. The store counts some of them as well.
    pub device_limits: Labelled<Counter>,
}

impl SessionMetrics {
    pub(super) fn new(device_limits: Labelled<Counter>) -> Self {
        Self {
            handshakes: Labelled::new("result", HANDSHAKE_RESULTS),
            open: Gauge::default(),
            flush: sizes(),
            device_limits,
        }
    }

    /// Counts a message of a device that is beyond this limit, one of the labels of
    /// `device_limits`.
    pub fn count_beyond_limit(&self, limit: &'static str) {
        self.device_limits.with_label(limit).inc();
    }
}

/// What the recorder writes.
#[derive(Debug)]
pub struct RecorderMetrics {
    /// From the commit that made a deploy due to the commit of its acceptance.
    pub push: Histogram,
    /// Reports written together in one transaction.
    pub report_flush: Histogram,
    /// Devices whose heartbeats were written together.
    pub heartbeat_flush: Histogram,
}

impl RecorderMetrics {
    pub(super) fn new() -> Self {
        Self {
            push: seconds(),
            report_flush: sizes(),
            heartbeat_flush: sizes(),
        }
    }
}

/// Figures that nobody moves: a scrape reads them.
#[derive(Debug)]
pub struct ScrapedMetrics {
    /// Waiting things by queue: `reports`, `heartbeats`, `progress`, `hints`.
    pub waiting: Labelled<Gauge>,
    /// Deployments by state.
    pub deployments: Labelled<Gauge>,
    /// Devices by status.
    pub devices: Labelled<Gauge>,
    /// Devices by the version of their agent. Agents may say anything, so few versions are named,
    /// and the others are one series.
    pub agents: Family<[(&'static str, String); 1], Gauge>,
    /// Devices that run something else than their last outcome said.
    pub drifted: Gauge,
    /// Operator tokens by when they expire.
    pub operator_tokens: Labelled<Gauge>,
    /// When certificates end, in seconds since 1970, by [`CERTIFICATES`]; 0 for one that is not
    /// there.
    pub certificates: Labelled<Gauge>,
    /// The disk of the bundle store, in bytes.
    pub bundle_store: Labelled<Gauge>,
    /// Connections to the database by pool and by what they do.
    pub pool: Family<[(&'static str, &'static str); 2], Gauge>,
}

impl ScrapedMetrics {
    pub(super) fn new() -> Self {
        let states = DeploymentState::ALL.iter().map(|state| state.as_str());
        let statuses = DeviceStatus::ALL.iter().map(|status| status.as_str());
        Self {
            waiting: Labelled::new("queue", ["reports", "heartbeats", "progress", "hints"]),
            deployments: Labelled::new("state", states),
            devices: Labelled::new("status", statuses),
            agents: Family::default(),
            drifted: Gauge::default(),
            operator_tokens: Labelled::new("ends", TOKEN_ENDS),
            certificates: Labelled::new("certificate", CERTIFICATES),
            bundle_store: Labelled::new("kind", ["bundles", "free", "size"]),
            pool: Family::default(),
        }
    }
}
