//! One device as operators see it, from the tables that know something of it.

use std::collections::BTreeMap;

use kernex_proto::{
    ids::{DeviceId, Digest},
    v1,
};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder};

use crate::{
    clock::Timestamp,
    domain::device::{
        Conflict, DeviceStatus, DiskFault,
        away::{Away, AwayReason},
    },
    store::{
        db::{
            error::{Result, not_found},
            store::Store,
            values::{digest, unsigned},
        },
        entity::{device, device_drift, device_key, device_release, heartbeat, stored::Stored},
        read::{
            leftovers,
            selectors::{Labels, labels_of},
            vital_signs::{from_sample, sample_of},
        },
    },
};

/// One machine under management.
#[derive(Debug, Clone, PartialEq)]
pub struct Device {
    pub id: DeviceId,
    /// Unique name.
    pub name: String,
    /// Labels set by operators and enrolment tokens.
    pub labels: BTreeMap<String, String>,
    /// Whether it can be reached now.
    pub status: DeviceStatus,
    /// The last session or heartbeat.
    pub last_seen: Option<Timestamp>,
    /// Version of the agent program, empty before the first session.
    pub agent_version: String,
    /// What the machine is.
    pub inventory: v1::Inventory,
    /// Latest heartbeat.
    pub vital_signs: Option<v1::VitalSigns>,
    /// What it runs by its outcomes, ordered by bundle name.
    pub releases: Vec<v1::ActiveRelease>,
    /// Where its heartbeats report another release than its outcomes did.
    pub drifts: Vec<v1::Drift>,
    /// Files that its agent could not remove, by the latest heartbeat.
    pub leftovers: Option<v1::Leftovers>,
    /// What is wrong with the disk of its agent's state folder.
    pub disk_fault: Option<DiskFault>,
    /// When it enrolled.
    pub created_at: Timestamp,
    /// Number of the newest session.
    pub epoch: u64,
    /// SHA-256 of its public key.
    pub key: Digest,
    /// Grows by one with each change an operator makes.
    pub revision: u64,
    /// Newest revision of the session protocol it has spoken; 0 before the first.
    pub protocol_revision: u32,
    /// Why it is conflicted, when it is.
    pub conflict: Option<Conflict>,
    /// Why it is away; none while it has a session.
    pub away: Option<Away>,
    /// Since when it is away; none while it has a session, and where no server noted it.
    pub away_since: Option<Timestamp>,
}

impl Store {
    pub(crate) async fn whole<C: ConnectionTrait>(
        &self,
        db: &C,
        row: device::Model,
    ) -> Result<Device> {
        let labels = labels_of(db, &[row.id])
            .await?
            .remove(&row.id)
            .unwrap_or_default();
        let id = row.id;
        let mut devices = self.hydrate(db, vec![(row, labels)]).await?;
        devices.pop().ok_or_else(|| not_found("device", id))
    }

    /// Adds what other tables have about these devices, one query a table.
    pub(crate) async fn hydrate<C: ConnectionTrait>(
        &self,
        db: &C,
        rows: Vec<(device::Model, Labels)>,
    ) -> Result<Vec<Device>> {
        let ids: Vec<Stored<DeviceId>> = rows.iter().map(|(row, _)| row.id).collect();
        let online = self.online(db, &ids).await?;
        let mut beats = by_device(
            heartbeat::Entity::find()
                .filter(heartbeat::Column::DeviceId.is_in(ids.clone()))
                .all(db)
                .await?,
            |row| row.device_id,
        );
        let mut keys = by_device(
            device_key::Entity::find()
                .filter(device_key::Column::DeviceId.is_in(ids.clone()))
                .filter(device_key::Column::RevokedAt.is_null())
                .all(db)
                .await?,
            |row| row.device_id,
        );
        let mut releases = by_device(
            device_release::Entity::find()
                .filter(device_release::Column::DeviceId.is_in(ids.clone()))
                .order_by_asc(device_release::Column::Name)
                .all(db)
                .await?,
            |row| row.device_id,
        );
        let mut drifts = by_device(
            device_drift::Entity::find()
                .filter(device_drift::Column::DeviceId.is_in(ids))
                .order_by_asc(device_drift::Column::Name)
                .all(db)
                .await?,
            |row| row.device_id,
        );
        rows.into_iter()
            .map(|(row, labels)| {
                let key = keys.remove(&row.id).and_then(|mut keys| keys.pop());
                let beat = beats.remove(&row.id).and_then(|mut beats| beats.pop());
                // The row of the device has the times of its sessions only.
                let beat_at = beat.as_ref().map(|beat| beat.at);
                let away = (!online.contains(&row.id)).then(|| away_of(&row));
                Ok(Device {
                    away_since: row.away_since.filter(|_| away.is_some()).map(Timestamp),
                    away,
                    status: status(&row, online.contains(&row.id)),
                    key: key.map_or(Ok(Digest([0; 32])), |key| digest(&key.digest))?,
                    releases: releases
                        .remove(&row.id)
                        .unwrap_or_default()
                        .into_iter()
                        .map(release_from)
                        .collect(),
                    drifts: drifts
                        .remove(&row.id)
                        .unwrap_or_default()
                        .into_iter()
                        .map(drift_from)
                        .collect(),
                    leftovers: beat
                        .as_ref()
                        .and_then(|beat| leftovers::from_text(beat.leftovers.as_deref()?)),
                    vital_signs: beat.as_ref().map(|beat| from_sample(&sample_of(beat))),
                    labels,
                    disk_fault: row.disk_fault.as_deref().and_then(DiskFault::parse),
                    id: row.id.0,
                    last_seen: row.last_seen.max(beat_at).map(Timestamp),
                    inventory: v1::Inventory {
                        os: row.os,
                        arch: row.arch,
                        hostname: row.hostname,
                        kernel: row.kernel,
                        cpu_count: u32::try_from(row.cpu_count).unwrap_or(0),
                        memory_bytes: unsigned(row.memory_bytes),
                    },
                    name: row.name,
                    agent_version: row.agent_version,
                    created_at: Timestamp(row.created_at),
                    epoch: unsigned(row.epoch),
                    revision: unsigned(row.revision),
                    protocol_revision: u32::try_from(row.protocol_revision).unwrap_or(0),
                    // Conflicts without a reason are from versions that knew only copies.
                    conflict: row
                        .conflicted
                        .then(|| Conflict::parse(&row.conflict).unwrap_or(Conflict::Copies)),
                })
            })
            .collect()
    }
}

fn status(row: &device::Model, online: bool) -> DeviceStatus {
    if row.conflicted {
        DeviceStatus::Conflicted
    } else if online {
        DeviceStatus::Online
    } else {
        DeviceStatus::Offline
    }
}

/// Why a device without a session is away.
pub(crate) fn away_of(row: &device::Model) -> Away {
    // No reason was noted: its server died, or an earlier version of the server ended the session.
    let unnoted = match row.epoch {
        0 => AwayReason::NeverConnected,
        _ => AwayReason::ServerGone,
    };
    Away {
        reason: AwayReason::parse(&row.away_reason).unwrap_or(unnoted),
        detail: row.away_detail.clone(),
    }
}

fn by_device<T>(
    rows: Vec<T>,
    device: impl Fn(&T) -> Stored<DeviceId>,
) -> BTreeMap<Stored<DeviceId>, Vec<T>> {
    let mut map = BTreeMap::<Stored<DeviceId>, Vec<T>>::new();
    for row in rows {
        map.entry(device(&row)).or_default().push(row);
    }
    map
}

pub(crate) fn drift_from(row: device_drift::Model) -> v1::Drift {
    v1::Drift {
        name: row.name,
        expected_version: row.expected_version,
        expected_digest: row.expected_digest.unwrap_or_default(),
        actual_version: row.actual_version,
        actual_digest: row.actual_digest.unwrap_or_default(),
        since: Some(Timestamp(row.since).to_proto()),
    }
}

pub(crate) fn release_from(row: device_release::Model) -> v1::ActiveRelease {
    v1::ActiveRelease {
        name: row.name,
        version: row.version,
        digest: row.digest,
        previous_digest: row.previous_digest,
        since: Some(Timestamp(row.since).to_proto()),
    }
}
