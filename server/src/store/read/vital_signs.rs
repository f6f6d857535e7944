//! Vital signs between the contract and rows. The latest heartbeat of a device and a sample of its
//! history have the same numbers; this is the one place that names them all.

use kernex_proto::{ids::DeviceId, v1};

use crate::store::{
    db::values::{signed, unsigned},
    entity::{heartbeat, heartbeat_sample, stored::Stored},
};

/// The vital signs of a sample.
pub(crate) fn from_sample(row: &heartbeat_sample::Model) -> v1::VitalSigns {
    v1::VitalSigns {
        cpu_percent: row.cpu_percent,
        memory_used_mb: unsigned(row.memory_used_mb),
        memory_total_mb: unsigned(row.memory_total_mb),
        disk_free_bytes: unsigned(row.disk_free_bytes),
        disk_total_bytes: unsigned(row.disk_total_bytes),
        uptime_seconds: unsigned(row.uptime_seconds),
    }
}

/// A sample of what a device said at an instant.
pub(crate) fn to_sample(
    device: Stored<DeviceId>,
    at: i64,
    said: &v1::VitalSigns,
) -> heartbeat_sample::Model {
    heartbeat_sample::Model {
        device_id: device,
        at,
        // SQLite has no NaN, and no percentage is infinite.
        cpu_percent: if said.cpu_percent.is_finite() {
            said.cpu_percent
        } else {
            0.0
        },
        memory_used_mb: signed(said.memory_used_mb),
        memory_total_mb: signed(said.memory_total_mb),
        disk_free_bytes: signed(said.disk_free_bytes),
        disk_total_bytes: signed(said.disk_total_bytes),
        uptime_seconds: signed(said.uptime_seconds),
    }
}

/// The latest heartbeat as a sample of the history.
pub(crate) fn sample_of(beat: &heartbeat::Model) -> heartbeat_sample::Model {
    heartbeat_sample::Model {
        device_id: beat.device_id,
        at: beat.at,
        cpu_percent: beat.cpu_percent,
        memory_used_mb: beat.memory_used_mb,
        memory_total_mb: beat.memory_total_mb,
        disk_free_bytes: beat.disk_free_bytes,
        disk_total_bytes: beat.disk_total_bytes,
        uptime_seconds: beat.uptime_seconds,
    }
}

/// The latest heartbeat with the vital signs of a sample, which was made of what the device said.
pub(crate) fn to_latest(
    sample: heartbeat_sample::Model,
    epoch: i64,
    sampled_at: i64,
    releases: String,
    leftovers: Option<String>,
) -> heartbeat::Model {
    heartbeat::Model {
        device_id: sample.device_id,
        cpu_percent: sample.cpu_percent,
        memory_used_mb: sample.memory_used_mb,
        memory_total_mb: sample.memory_total_mb,
        disk_free_bytes: sample.disk_free_bytes,
        disk_total_bytes: sample.disk_total_bytes,
        uptime_seconds: sample.uptime_seconds,
        epoch,
        at: sample.at,
        sampled_at,
        releases,
        leftovers,
    }
}
