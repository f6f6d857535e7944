//! Counters of a fleet.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use parking_lot::Mutex;

use hdrhistogram::Histogram;

/// Counts of everything that happened, and how long it took.
#[derive(Debug, Default)]
pub struct Counters {
    pub(super) online: AtomicU64,
    pub(super) opened: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) lost: AtomicU64,
    pub(super) heartbeats: AtomicU64,
    pub(super) heartbeat_acks: AtomicU64,
    pub(super) deploys: AtomicU64,
    pub(super) repeated: AtomicU64,
    pub(super) accepted: AtomicU64,
    pub(super) outcomes: AtomicU64,
    pub(super) late: AtomicU64,
    pub(super) not_applied: AtomicU64,
    /// From connecting to `Ready`.
    pub opening: Latencies,
    /// From a heartbeat to its acknowledgement.
    pub heartbeat: Latencies,
}

/// [`Counters`] at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CounterSnapshot {
    /// Agents whose session is open.
    pub online: u64,
    /// Sessions opened.
    pub opened: u64,
    /// Connections the server ended with a status before the session was open.
    pub refused: u64,
    /// Connections that failed before the session was open.
    pub failed: u64,
    /// Open sessions that ended, cut ones among them.
    pub lost: u64,
    /// Heartbeats sent.
    pub heartbeats: u64,
    /// Heartbeats acknowledged.
    pub heartbeat_acks: u64,
    /// Deploys that arrived for the first time.
    pub deploys: u64,
    /// Deploys that arrived although the agent had said that it accepted them.
    pub repeated: u64,
    /// `accepted` reports acknowledged.
    pub accepted: u64,
    /// Outcomes acknowledged.
    pub outcomes: u64,
    /// Outcomes of attempts that were closed before they arrived; they are among the acknowledged.
    pub late: u64,
    /// Reports acknowledged as unknown or refused.
    pub not_applied: u64,
}

impl Counters {
    /// All counts now.
    #[must_use]
    pub fn tally(&self) -> CounterSnapshot {
        CounterSnapshot {
            online: self.online.load(Relaxed),
            opened: self.opened.load(Relaxed),
            refused: self.refused.load(Relaxed),
            failed: self.failed.load(Relaxed),
            lost: self.lost.load(Relaxed),
            heartbeats: self.heartbeats.load(Relaxed),
            heartbeat_acks: self.heartbeat_acks.load(Relaxed),
            deploys: self.deploys.load(Relaxed),
            repeated: self.repeated.load(Relaxed),
            accepted: self.accepted.load(Relaxed),
            outcomes: self.outcomes.load(Relaxed),
            late: self.late.load(Relaxed),
            not_applied: self.not_applied.load(Relaxed),
        }
    }
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

/// A histogram in microseconds with three digits, filled from many tasks.
#[derive(Debug)]
pub struct Latencies(Mutex<Histogram<u64>>);

impl Default for Latencies {
    fn default() -> Self {
        Self(Mutex::new(
            Histogram::new(3).expect("three digits are allowed"),
        ))
    }
}

impl Latencies {
    /// Adds one.
    pub fn record(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.0.lock().record(micros).expect("histograms grow");
    }

    /// Takes what was recorded so far and starts over.
    #[must_use]
    pub fn take(&self) -> Histogram<u64> {
        let mut histogram = self.0.lock();
        let taken = histogram.clone();
        histogram.reset();
        taken
    }
}
