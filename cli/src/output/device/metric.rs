//! Vital signs of a device over time, as printed.

use kernex_proto::v1;
use serde::Serialize;

use crate::output::{Field, Time, View, ago, bytes, seconds, wire::Wire};

/// One sampled heartbeat.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub(crate) struct MetricView {
    sample: Wire<v1::MetricSample>,
}

impl From<v1::MetricSample> for MetricView {
    fn from(sample: v1::MetricSample) -> Self {
        Self {
            sample: Wire(sample),
        }
    }
}

pub(super) fn cpu(signs: v1::VitalSigns) -> String {
    format!("{:.1}%", signs.cpu_percent)
}

pub(super) fn memory(signs: v1::VitalSigns) -> String {
    let of = |mebibytes: u64| bytes(mebibytes.saturating_mul(1 << 20));
    format!(
        "{} of {}",
        of(signs.memory_used_mb),
        of(signs.memory_total_mb)
    )
}

pub(super) fn disk(signs: v1::VitalSigns) -> String {
    format!(
        "{} free of {}",
        bytes(signs.disk_free_bytes),
        bytes(signs.disk_total_bytes)
    )
}

impl View for MetricView {
    const EMPTY: &'static str = "No heartbeats are kept for this device yet.";

    fn header(_wide: bool) -> Vec<&'static str> {
        vec!["AT", "CPU", "MEMORY", "DISK", "UP"]
    }

    fn row(&self, _wide: bool, now: Time) -> Vec<Field> {
        let signs = self.sample.vital_signs.unwrap_or_default();
        vec![
            Field::plain(ago(Time::from_wire(self.sample.at), now)),
            Field::plain(cpu(signs)),
            Field::plain(memory(signs)),
            Field::plain(disk(signs)),
            Field::plain(seconds(signs.uptime_seconds)),
        ]
    }

    fn name(&self) -> String {
        let at = Time::from_wire(self.sample.at);
        at.map_or_else(String::new, |at| at.to_string())
    }
}
