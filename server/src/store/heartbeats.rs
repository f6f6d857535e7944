//! Heartbeats of many sessions at once: the latest of each device, and a sampled history.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use kernex_proto::{ids::DeviceId, v1};
use sea_orm::{
    ColumnTrait, EntityTrait, Iterable, QueryFilter, QuerySelect, sea_query::OnConflict,
};
use serde_json::json;
use uuid::Uuid;

use super::{
    Result, Store,
    attempts::signed,
    drifts,
    entity::{device, heartbeat, heartbeat_sample},
    transaction::{ID_CHUNK, Tx, insert_all, padded},
};
use crate::{clock::Timestamp, crash::Act};

/// What one device said last.
#[derive(Debug, Clone, PartialEq)]
pub struct HeartbeatRow {
    /// The device.
    pub device: DeviceId,
    /// The session it came in.
    pub epoch: u64,
    /// How the machine is.
    pub vital_signs: v1::VitalSigns,
    /// What the agent says is active; none when an outcome has come since, which knows better.
    pub releases: Option<Vec<v1::ActiveRelease>>,
}

/// The newest heartbeat of each device.
pub(super) type Newest<'a> = BTreeMap<Uuid, &'a HeartbeatRow>;

/// One sample a minute of each device makes the history.
const SAMPLE_EVERY: Duration = Duration::from_secs(60);

impl Store {
    /// Records the newest heartbeat of each device; those of older sessions and deleted devices are dropped.
    pub async fn record_heartbeats(&self, rows: &[HeartbeatRow]) -> Result<()> {
        // The last one of each device wins; sorted, so that replicas lock rows in one order.
        let newest: Newest<'_> = rows.iter().map(|row| (row.device.0, row)).collect();
        let newest = &newest;
        if newest.is_empty() {
            return Ok(());
        }
        let suspects = self
            .write_beside_as(Act::CommitHeartbeats, |tx| async move {
                let ids: Vec<Uuid> = newest.keys().copied().collect();
                let mut suspects = Vec::new();
                for chunk in ids.chunks(ID_CHUNK) {
                    suspects.extend(record(&tx, newest, chunk).await?);
                }
                Ok(suspects)
            })
            .await?;
        self.judge_drifts(newest, &suspects).await
    }
}

/// Writes the heartbeats of some devices; says which of these seem to run something else than they should. When a device was
/// last seen is read from its heartbeat as well as from its own row, so that row is left alone.
async fn record(tx: &Tx, newest: &Newest<'_>, ids: &[Uuid]) -> Result<Vec<Uuid>> {
    let epochs: Vec<(Uuid, i64)> = device::Entity::find()
        .select_only()
        .columns([device::Column::Id, device::Column::Epoch])
        .filter(device::Column::Id.is_in(padded(ids.iter().copied())))
        .into_tuple()
        .all(&tx.db)
        .await?;
    let sampled: Vec<(Uuid, i64)> = heartbeat::Entity::find()
        .select_only()
        .columns([heartbeat::Column::DeviceId, heartbeat::Column::SampledAt])
        .filter(heartbeat::Column::DeviceId.is_in(padded(ids.iter().copied())))
        .into_tuple()
        .all(&tx.db)
        .await?;
    let sampled: HashMap<Uuid, i64> = sampled.into_iter().collect();
    let mut recorded: Vec<&HeartbeatRow> = epochs
        .into_iter()
        .filter_map(|(id, epoch)| newest.get(&id).copied().zip(Some(epoch)))
        .filter(|(row, epoch)| signed(row.epoch) >= *epoch)
        .map(|(row, _)| row)
        .collect();
    recorded.sort_by_key(|row| row.device);
    let mut latest = Vec::with_capacity(recorded.len());
    let mut samples = Vec::new();
    for row in &recorded {
        let last = sampled.get(&row.device.0).copied();
        let due = last.is_none_or(|last| tx.now.since(Timestamp(last)) >= SAMPLE_EVERY);
        let beat = beat(row, tx.now, last.filter(|_| !due).unwrap_or(tx.now.0));
        if due {
            samples.push(sample(&beat));
        }
        latest.push(beat);
    }
    let newer = OnConflict::column(heartbeat::Column::DeviceId)
        .update_columns(
            heartbeat::Column::iter()
                .filter(|column| !matches!(column, heartbeat::Column::DeviceId)),
        )
        .to_owned();
    insert_all::<heartbeat::Entity>(&tx.db, latest, Some(newer)).await?;
    let once = OnConflict::columns([
        heartbeat_sample::Column::DeviceId,
        heartbeat_sample::Column::At,
    ])
    .do_nothing()
    .to_owned();
    insert_all::<heartbeat_sample::Entity>(&tx.db, samples, Some(once)).await?;
    drifts::suspects(&tx.db, &recorded).await
}

fn beat(row: &HeartbeatRow, now: Timestamp, sampled_at: i64) -> heartbeat::Model {
    let vitals = &row.vital_signs;
    let releases: Vec<_> = row
        .releases
        .iter()
        .flatten()
        .map(|release| json!({ "name": release.name, "version": release.version, "digest": release.digest }))
        .collect();
    heartbeat::Model {
        device_id: row.device.0,
        // SQLite has no NaN, and no percentage is infinite.
        cpu_percent: if vitals.cpu_percent.is_finite() {
            vitals.cpu_percent
        } else {
            0.0
        },
        memory_used_mb: signed(vitals.memory_used_mb),
        memory_total_mb: signed(vitals.memory_total_mb),
        disk_free_bytes: signed(vitals.disk_free_bytes),
        disk_total_bytes: signed(vitals.disk_total_bytes),
        uptime_seconds: signed(vitals.uptime_seconds),
        epoch: signed(row.epoch),
        at: now.0,
        sampled_at,
        releases: json!(releases).to_string(),
    }
}

fn sample(beat: &heartbeat::Model) -> heartbeat_sample::Model {
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
