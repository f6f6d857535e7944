//! Heartbeats of many sessions at once: the latest of each device, and a sampled history.

use std::{collections::BTreeMap, time::Duration};

use kernex_proto::{ids::DeviceId, v1};
use sea_orm::{
    ColumnTrait, EntityTrait, Iterable, QueryFilter,
    sea_query::{Expr, OnConflict},
};
use serde_json::json;
use uuid::Uuid;

use super::{
    Result, Store,
    attempts::signed,
    drifts,
    entity::{device, heartbeat, heartbeat_sample},
    transaction::{ID_CHUNK, Tx, insert_all},
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

/// One sample a minute of each device makes the history.
const SAMPLE_EVERY: Duration = Duration::from_secs(60);

impl Store {
    /// Records the newest heartbeat of each device; those of older sessions and deleted devices are dropped.
    pub async fn record_heartbeats(&self, rows: Vec<HeartbeatRow>) -> Result<()> {
        // The last one of each device wins; sorted, so that replicas lock rows in one order.
        let newest: BTreeMap<Uuid, HeartbeatRow> =
            rows.into_iter().map(|row| (row.device.0, row)).collect();
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

/// Writes the heartbeats of some devices; says which of these seem to run something else than they should.
async fn record(tx: &Tx, newest: &BTreeMap<Uuid, HeartbeatRow>, ids: &[Uuid]) -> Result<Vec<Uuid>> {
    let mut devices = device::Entity::find()
        .filter(device::Column::Id.is_in(ids.to_vec()))
        .all(&tx.db)
        .await?;
    devices.retain(|device| {
        newest
            .get(&device.id)
            .is_some_and(|row| signed(row.epoch) >= device.epoch)
    });
    devices.sort_by_key(|device| device.id);
    let sampled: BTreeMap<Uuid, i64> = heartbeat::Entity::find()
        .filter(heartbeat::Column::DeviceId.is_in(ids.to_vec()))
        .all(&tx.db)
        .await?
        .into_iter()
        .map(|row| (row.device_id, row.sampled_at))
        .collect();
    let mut latest = Vec::with_capacity(devices.len());
    let mut samples = Vec::new();
    for device in &devices {
        let Some(row) = newest.get(&device.id) else {
            continue;
        };
        let last = sampled.get(&device.id).copied();
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
    device::Entity::update_many()
        .col_expr(device::Column::LastSeen, Expr::value(tx.now.0))
        .filter(device::Column::Id.is_in(devices.iter().map(|device| device.id)))
        .exec(&tx.db)
        .await?;
    let recorded = devices.iter().filter_map(|device| newest.get(&device.id));
    drifts::suspects(&tx.db, &recorded.collect::<Vec<_>>()).await
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
