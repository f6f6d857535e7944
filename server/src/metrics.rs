//! What the server counts about itself. Its parts move these figures, and a scrape
//! (`edge/monitor.rs`) reads them.
//!
//! No label names a device, a bundle or a caller, so the number of series does not grow with the
//! fleet. All series are there from the first scrape on, with zero, so that rates and alerts work
//! before the first event.

mod groups;
mod instruments;
mod labels;
mod process;
mod rpc;

use prometheus_client::{
    metrics::{counter::Counter, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};

pub use self::{
    groups::{EdgeMetrics, RecorderMetrics, ScrapedMetrics, SessionMetrics},
    instruments::{Counters, GaugeGuard, Labelled, observe, set},
    labels::{CERTIFICATES, TOKEN_ENDS},
    rpc::RpcMetrics,
};
use self::{
    instruments::seconds,
    labels::{DEVICE_LIMITS, ENDED_WITHOUT_REASON},
    process::ProcessFigures,
};
use crate::domain::{attempt::FailureReason, rollout::DeploymentResult};

/// All figures. The parts of the server share one.
#[derive(Debug)]
pub struct Metrics {
    pub edge: EdgeMetrics,
    pub rpc: RpcMetrics,
    pub sessions: SessionMetrics,
    pub recorder: RecorderMetrics,
    pub scraped: ScrapedMetrics,
    pub store: Transactions,
}

impl Metrics {
    /// All figures at zero, beside those that the store has.
    #[must_use]
    pub fn new(store: Transactions) -> Self {
        Self {
            edge: EdgeMetrics::new(),
            rpc: RpcMetrics::new(),
            sessions: SessionMetrics::new(store.device_limits.clone()),
            recorder: RecorderMetrics::new(),
            scraped: ScrapedMetrics::new(),
            store,
        }
    }

    /// The names of the figures in a scrape. Counters get `_total` behind theirs.
    #[must_use]
    pub fn registry(&self) -> Registry {
        let mut all = Registry::default();
        all.register_collector(Box::new(ProcessFigures));
        let registry = all.sub_registry_with_prefix("kernex");
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The program", build);
        registry.register(
            "connections",
            "Connections by what became of them until something on them had authenticated",
            self.edge.connections.0.clone(),
        );
        registry.register(
            "connections_open",
            "Connections held now",
            self.edge.connections_open.clone(),
        );
        registry.register(
            "strangers",
            "Connections on which nothing has authenticated",
            self.edge.strangers.clone(),
        );
        registry.register(
            "strangers_refused",
            "Calls and connections of strangers that were refused, by reason",
            self.edge.refusals.0.clone(),
        );
        registry.register(
            "handshakes",
            "Session handshakes by result",
            self.sessions.handshakes.0.clone(),
        );
        registry.register(
            "sessions",
            "Sessions of devices that are open now",
            self.sessions.open.clone(),
        );
        registry.register_with_unit(
            "push_latency",
            "From the commit that made a deploy due to the commit of its acceptance by the device; counted from the opening of the session when the device was away",
            Unit::Seconds,
            self.recorder.push.clone(),
        );
        registry.register("queue", "Things that wait", self.scraped.waiting.0.clone());
        registry.register(
            "report_flush_size",
            "Reports and progress written in one transaction",
            self.recorder.report_flush.clone(),
        );
        registry.register(
            "heartbeat_flush_size",
            "Devices whose heartbeats were written in one transaction",
            self.recorder.heartbeat_flush.clone(),
        );
        registry.register(
            "session_flush_size",
            "Sessions opened, confirmed and closed in one transaction",
            self.sessions.flush.clone(),
        );
        registry.register_with_unit(
            "bundle",
            "Bytes of bundles sent and received",
            Unit::Bytes,
            self.edge.bundle_bytes.0.clone(),
        );
        registry.register(
            "watchers",
            "Open watches of deployments and events",
            self.edge.watchers.clone(),
        );
        registry.register(
            "deployments",
            "Deployments by state",
            self.scraped.deployments.0.clone(),
        );
        registry.register(
            "devices_drifted",
            "Devices that run something else than their last outcome said",
            self.scraped.drifted.clone(),
        );
        registry.register(
            "devices",
            "Devices by status",
            self.scraped.devices.0.clone(),
        );
        registry.register(
            "agents",
            "Devices by the version of their agent; beyond the most frequent ones they are together",
            self.scraped.agents.clone(),
        );
        registry.register(
            "operator_tokens",
            "Operator tokens that work, by when they end: within a week, or later",
            self.scraped.operator_tokens.0.clone(),
        );
        registry.register(
            "certificate_expiry_timestamp_seconds",
            "When certificates end, in seconds since 1970; 0 where there is none",
            self.scraped.certificates.0.clone(),
        );
        registry.register_with_unit(
            "bundle_store",
            "The disk of the bundle store: what bundles take, what is free, and its size",
            Unit::Bytes,
            self.scraped.bundle_store.0.clone(),
        );
        registry.register(
            "store_connections",
            "Connections to the database, by pool and by what they do",
            self.scraped.pool.clone(),
        );
        self.rpc.register(registry);
        registry.register(
            "slow_readers",
            "Readers that took nothing of an answer, by what was ended: their stream, or their connection",
            self.edge.slow_readers.0.clone(),
        );
        registry.register(
            "token_limit",
            "Calls refused because their token had as many streams, uploads or plans under way as it may",
            self.edge.token_limit.clone(),
        );
        registry.register(
            "device_limits",
            "What devices said beyond their limits: messages heard later, progress dropped, releases of heartbeats not looked at, obstacles of plans dropped, events held back, older reports of unknown attempts dropped",
            self.sessions.device_limits.0.clone(),
        );
        self.store.register(registry);
        all
    }
}

#[derive(Debug, Clone)]
pub struct Transactions {
    /// By how they ended: `committed`, `rolled_back`, `retried`.
    pub ended: Labelled<Counter>,
    /// How long committed transactions took, with their wait for the writer.
    pub took: Histogram,
    /// Messages of devices beyond their limits.
    pub device_limits: Labelled<Counter>,
    /// Attempts that this replica closed, by state and, for failed ones, reason.
    pub attempts_ended: Counters<2>,
    /// Deployments that this replica finished, by result.
    pub deployments_finished: Counters<1>,
}

impl Default for Transactions {
    fn default() -> Self {
        Self {
            ended: Labelled::new("result", ["committed", "rolled_back", "retried"]),
            took: seconds(),
            device_limits: Labelled::new("limit", DEVICE_LIMITS),
            attempts_ended: Counters::new(
                ["result", "reason"],
                FailureReason::ALL
                    .iter()
                    .map(|reason| ["failed", reason.as_str()])
                    .chain(ENDED_WITHOUT_REASON.map(|result| [result, ""])),
            ),
            deployments_finished: Counters::new(
                ["result"],
                DeploymentResult::ALL.iter().map(|result| [result.as_str()]),
            ),
        }
    }
}

impl Transactions {
    fn register(&self, registry: &mut Registry) {
        registry.register(
            "transactions",
            "Transactions by how they ended; a retried one counts again",
            self.ended.0.clone(),
        );
        registry.register(
            "attempts",
            "Attempts that were closed on this replica, by result and, for failed ones, reason",
            self.attempts_ended.family.clone(),
        );
        registry.register(
            "deployments_finished",
            "Deployments that finished on this replica, by result",
            self.deployments_finished.family.clone(),
        );
        registry.register_with_unit(
            "transaction",
            "How long committed transactions took, the wait for the writer included",
            Unit::Seconds,
            self.took.clone(),
        );
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::{encoding::prometheus_text::encode, metrics::gauge::Gauge};

    use super::*;

    #[test]
    fn every_series_is_there_before_anything_happens() {
        let metrics = Metrics::new(Transactions::default());
        let mut text = String::new();
        encode(&mut text, &metrics.registry()).expect("encodes");
        for series in [
            "kernex_connections_total{result=\"timed_out\"} 0",
            "kernex_handshakes_total{result=\"unauthenticated\"} 0",
            "kernex_strangers 0",
            "kernex_strangers_refused_total{reason=\"busy\"} 0",
            "kernex_queue{queue=\"reports\"} 0",
            "kernex_deployments{state=\"awaiting_approval\"} 0",
            "kernex_devices_drifted 0",
            "kernex_devices{status=\"offline\"} 0",
            "kernex_attempts_total{result=\"failed\",reason=\"script_failed\"} 0",
            "kernex_attempts_total{result=\"succeeded\",reason=\"\"} 0",
            "kernex_deployments_finished_total{result=\"failed\"} 0",
            "kernex_certificate_expiry_timestamp_seconds{certificate=\"server\"} 0",
            "process_open_fds ",
            "kernex_push_latency_seconds_count 0",
            "kernex_bundle_bytes_total{direction=\"down\"} 0",
            "kernex_transactions_total{result=\"committed\"} 0",
        ] {
            assert!(text.contains(series), "{series} is not in\n{text}");
        }
    }

    #[test]
    fn what_is_held_counts_until_it_is_dropped() {
        let gauge = Gauge::default();
        let (first, second) = (GaugeGuard::new(&gauge), GaugeGuard::new(&gauge));
        assert_eq!(gauge.get(), 2);
        drop(first);
        drop(second);
        assert_eq!(gauge.get(), 0);
    }
}
