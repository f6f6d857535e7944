//! Devices: how they are, what they measured, what was deployed to them.

use kernex_proto::v1;

use crate::{
    clock::Timestamp,
    store::{Device, HistoryEntry, MetricSample},
};

impl From<Device> for v1::Device {
    fn from(device: Device) -> Self {
        // A device that never had a session may have sent no inventory.
        let (away_reason, away_detail) = match device.away {
            Some(away) => (v1::AwayReason::from(away.reason), away.detail),
            None => (v1::AwayReason::Unspecified, String::new()),
        };
        let known = device.epoch > 0 || device.inventory != v1::Inventory::default();
        Self {
            id: device.id.to_string(),
            name: device.name,
            labels: device.labels.into_iter().collect(),
            status: v1::DeviceStatus::from(device.status).into(),
            last_seen: device.last_seen.map(Timestamp::to_proto),
            agent_version: device.agent_version,
            inventory: known.then_some(device.inventory),
            vital_signs: device.vital_signs,
            releases: device.releases,
            drifts: device.drifts,
            leftovers: device.leftovers,
            disk_fault: device
                .disk_fault
                .map_or(v1::DiskFault::Unspecified, v1::DiskFault::from)
                .into(),
            created_at: Some(device.created_at.to_proto()),
            epoch: device.epoch,
            key_fingerprint: device.key.to_string(),
            revision: device.revision,
            protocol_revision: device.protocol_revision,
            conflict: device
                .conflict
                .map_or(v1::DeviceConflict::Unspecified, Into::into)
                .into(),
            away_since: device.away_since.map(Timestamp::to_proto),
            away_reason: away_reason.into(),
            away_detail,
        }
    }
}

impl From<MetricSample> for v1::MetricSample {
    fn from(sample: MetricSample) -> Self {
        Self {
            at: Some(sample.at.to_proto()),
            vital_signs: Some(sample.vital_signs),
        }
    }
}

impl From<HistoryEntry> for v1::DeviceHistoryEntry {
    fn from(entry: HistoryEntry) -> Self {
        Self {
            deployment_id: entry.deployment.to_string(),
            bundle: entry.bundle,
            digest: entry.digest.to_string(),
            attempt: entry.attempt,
            state: entry.state.to_string(),
            reason: entry
                .reason
                .map(|reason| reason.to_string())
                .unwrap_or_default(),
            message: entry.message,
            created_at: Some(entry.created_at.to_proto()),
            closed_at: entry.closed_at.map(Timestamp::to_proto),
            active_version: entry.active_version,
            active_digest: entry.active_digest,
            rolls_back: entry
                .rolls_back
                .map(|id| id.to_string())
                .unwrap_or_default(),
        }
    }
}
