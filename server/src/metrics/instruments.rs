//! The kinds of figures that [`Metrics`](super::Metrics) is made of, and how they are moved.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use prometheus_client::metrics::{
    counter::Counter,
    family::Family,
    gauge::Gauge,
    histogram::{Histogram, exponential_buckets},
};

/// One figure for each value of a label.
#[derive(Debug)]
pub struct Labelled<M>(
    pub(super) Family<[(&'static str, &'static str); 1], M>,
    &'static str,
);

impl<M> Clone for Labelled<M> {
    fn clone(&self) -> Self {
        Self(self.0.clone(), self.1)
    }
}

impl<M: Clone + Default> Labelled<M> {
    pub(super) fn new(label: &'static str, values: impl IntoIterator<Item = &'static str>) -> Self {
        let family = Self(Family::default(), label);
        for value in values {
            let _ = family.with_label(value);
        }
        family
    }

    /// The figure of one value. The handle is cheap and may be kept.
    #[must_use]
    pub fn with_label(&self, value: &'static str) -> M {
        self.0.get_or_create_owned(&[(self.1, value)])
    }
}

/// A counter for each of some fixed combinations of labels. Others are not counted, so no value
/// from outside can make a series.
#[derive(Debug, Clone)]
pub struct Counters<const N: usize> {
    pub(super) family: Family<[(&'static str, &'static str); N], Counter>,
    known: Arc<BTreeMap<[&'static str; N], Counter>>,
}

impl<const N: usize> Counters<N> {
    pub(super) fn new(
        labels: [&'static str; N],
        known: impl IntoIterator<Item = [&'static str; N]>,
    ) -> Self {
        let family = Family::<[(&'static str, &'static str); N], Counter>::default();
        let made = known.into_iter().map(|values| {
            let pairs = std::array::from_fn(|at| (labels[at], values[at]));
            (values, family.get_or_create_owned(&pairs))
        });
        let known = Arc::new(made.collect());
        Self { family, known }
    }

    /// Counts one; nothing when the values are unknown.
    pub fn inc(&self, values: [&str; N]) {
        if let Some(counter) = self.find(values) {
            counter.inc();
        }
    }

    /// The count; `None` when the values are unknown.
    #[must_use]
    pub fn get(&self, values: [&str; N]) -> Option<u64> {
        self.find(values).map(Counter::get)
    }

    fn find<'a>(&'a self, values: [&'a str; N]) -> Option<&'a Counter> {
        let known: &'a BTreeMap<[&'a str; N], Counter> = &self.known;
        known.get(&values)
    }
}

/// Counts one in a gauge until it is dropped.
#[derive(Debug)]
pub struct GaugeGuard(Gauge);

impl GaugeGuard {
    #[must_use]
    pub fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Sets a gauge to a length.
pub fn set(gauge: &Gauge, length: usize) {
    gauge.set(i64::try_from(length).unwrap_or(i64::MAX));
}

pub fn observe(histogram: &Histogram, took: Duration) {
    histogram.observe(took.as_secs_f64());
}

/// Buckets from a quarter of a millisecond to four minutes.
pub(super) fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.000_25, 2.0, 20))
}

/// Buckets from 1 to 16,384.
pub(super) fn sizes() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 2.0, 15))
}
