//! Figures of calls, by method.

use std::time::Duration;

use prometheus_client::{
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

type ByMethod = [(&'static str, &'static str); 1];
type ByMethodAndCode = [(&'static str, &'static str); 2];

/// Calls that were answered. Methods are those of the contract and `unknown` for all others, so
/// that no caller can make series.
#[derive(Debug)]
pub struct RpcMetrics {
    answered: Family<ByMethodAndCode, Counter>,
    took: Family<ByMethod, Histogram, fn() -> Histogram>,
}

impl RpcMetrics {
    pub(super) fn new() -> Self {
        Self {
            answered: Family::default(),
            took: Family::new_with_constructor(durations),
        }
    }

    /// Shows a method with zero, so that its first call shows in a rate.
    pub fn prepare(&self, method: &'static str) {
        let _ = self.counter(method, "OK");
    }

    /// Counts a call with its status and the time until its answer. For a stream that is the time
    /// until it began.
    pub fn answered(&self, method: &'static str, code: &'static str, took: Duration) {
        self.counter(method, code).inc();
        self.took
            .get_or_create_owned(&[("method", method)])
            .observe(took.as_secs_f64());
    }

    fn counter(&self, method: &'static str, code: &'static str) -> Counter {
        self.answered
            .get_or_create_owned(&[("method", method), ("code", code)])
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "rpc",
            "Calls that were answered, by method and status; a stream when it began",
            self.answered.clone(),
        );
        registry.register_with_unit(
            "rpc_duration",
            "Time until a call was answered, by method; of a stream until it began",
            Unit::Seconds,
            self.took.clone(),
        );
    }
}

/// Buckets from a millisecond to half a minute.
fn durations() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 3.0, 10))
}
