//! Heartbeats of many sessions at once: the latest of each device, and a sampled history.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use kernex_proto::{ids::DeviceId, v1};
use sea_orm::{
    ConnectionTrait, FromQueryResult, Iterable,
    sea_query::{Expr, ExprTrait, OnConflict, Query, SelectStatement, TableRef},
};
use serde_json::json;
use uuid::Uuid;

use super::{
    Result, Store,
    attempts::signed,
    drifts::{self, Compared},
    entity::{heartbeat, heartbeat_sample},
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
    /// It said the same when that was found to be as expected, and no outcome has come since.
    pub fits: bool,
}

/// The newest heartbeat of each device.
pub(super) type Newest<'a> = BTreeMap<Uuid, &'a HeartbeatRow>;

/// One sample a minute of each device makes the history.
const SAMPLE_EVERY: Duration = Duration::from_secs(60);

impl Store {
    /// Records the newest heartbeat of each device; those of older sessions and deleted devices are dropped. Gives the devices
    /// whose heartbeats were compared with what is expected of them, and fit.
    pub async fn record_heartbeats(&self, rows: &[HeartbeatRow]) -> Result<HashSet<DeviceId>> {
        // The last one of each device wins; sorted, so that replicas lock rows in one order.
        let newest: Newest<'_> = rows.iter().map(|row| (row.device.0, row)).collect();
        let newest = &newest;
        if newest.is_empty() {
            return Ok(HashSet::new());
        }
        let judged = self
            .write_beside_as(Act::CommitHeartbeats, |tx| async move {
                let ids: Vec<Uuid> = newest.keys().copied().collect();
                let mut judged = Compared::default();
                for chunk in ids.chunks(ID_CHUNK) {
                    let recorded = record(&tx, newest, chunk).await?;
                    drifts::compare(&tx.db, &recorded, &mut judged).await?;
                }
                Ok(judged)
            })
            .await?;
        self.judge_drifts(newest, &judged.suspects).await?;
        Ok(judged.fit)
    }
}

/// Writes the heartbeats of some devices; gives those that were written. When a device was last seen is read from its
/// heartbeat as well as from its own row, so that row is left alone.
async fn record<'a>(tx: &Tx, newest: &Newest<'a>, ids: &[Uuid]) -> Result<Vec<&'a HeartbeatRow>> {
    let mut recorded = Vec::with_capacity(ids.len());
    for row in tx.db.query_all(&before(ids)).await? {
        let before = Before::from_query_result(&row, "")?;
        let newest = newest.get(&before.id).copied();
        let current = newest.filter(|row| signed(row.epoch) >= before.epoch);
        recorded.extend(current.zip(Some(before.sampled_at)));
    }
    recorded.sort_by_key(|(row, _)| row.device);
    let mut latest = Vec::with_capacity(recorded.len());
    let mut samples = Vec::new();
    for (row, last) in &recorded {
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
    Ok(recorded.into_iter().map(|(row, _)| row).collect())
}

/// What is known of a device before its heartbeat is written.
#[derive(FromQueryResult)]
struct Before {
    id: Uuid,
    epoch: i64,
    /// When its history was last added to.
    sampled_at: Option<i64>,
}

fn before(ids: &[Uuid]) -> SelectStatement {
    Query::select()
        .columns([("d", "id"), ("d", "epoch")])
        .column(("h", "sampled_at"))
        .from_as("devices", "d")
        .left_join(
            TableRef::from("heartbeats").alias("h"),
            Expr::col(("h", "device_id")).equals(("d", "id")),
        )
        .and_where(Expr::col(("d", "id")).is_in(padded(ids.iter().copied())))
        .to_owned()
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
