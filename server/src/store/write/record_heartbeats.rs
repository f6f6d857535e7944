//! Records heartbeats of many sessions at once: the latest of each device, and a sampled history.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use kernex_proto::ids::DeviceId;
use sea_orm::{
    ConnectionTrait, FromQueryResult, Iterable,
    sea_query::{Expr, ExprTrait, OnConflict, Query, SelectStatement, TableRef},
};
use serde_json::json;

use crate::{
    clock::Timestamp,
    crash::Act,
    store::{
        db::{
            error::Result,
            raw::inserted,
            sizes::{ID_CHUNK, insert_all, padded},
            store::Store,
            transaction::Tx,
            values::signed,
        },
        entity::{device, heartbeat, heartbeat_sample, stored::Stored},
        read::{
            leftovers,
            vital_signs::{sample_of, to_latest, to_sample},
        },
        write::{
            heartbeat_row::{CachedHeartbeat, HeartbeatRow, Newest},
            judge_drifts::{self, Compared},
        },
    },
};

/// What became of heartbeats that were recorded.
#[derive(Debug, Default)]
pub struct RecordedHeartbeats {
    /// Devices whose releases were compared, and are as expected.
    pub fit: HashSet<DeviceId>,
    /// When the newest sample of a device was written. Only for devices where that was read, or has
    /// changed.
    pub sampled: HashMap<DeviceId, Timestamp>,
}

/// Time between two samples of a device in its history.
const SAMPLE_EVERY: Duration = Duration::from_secs(60);

impl Store {
    /// Records the newest heartbeat of each device. Those of older sessions and of deleted devices
    /// are dropped.
    pub async fn record_heartbeats(&self, rows: &[CachedHeartbeat]) -> Result<RecordedHeartbeats> {
        // The last one of each device wins. They are sorted, so that replicas lock rows in one
        // order.
        let newest: Newest<'_> = rows
            .iter()
            .map(|beat| (Stored(beat.row.device), beat))
            .collect();
        let newest = &newest;
        if newest.is_empty() {
            return Ok(RecordedHeartbeats::default());
        }
        // The first try believes what callers know of a device. When a row of a deleted device
        // makes it fail, the second try reads.
        let trusted = &AtomicBool::new(true);
        let (sampled, compared) = self
            .write_beside_as(Act::CommitHeartbeats, |tx| async move {
                let trusted = trusted.swap(false, Ordering::Relaxed);
                let beats: Vec<&CachedHeartbeat> = newest.values().copied().collect();
                let (mut sampled, mut compared) = (HashMap::new(), Compared::default());
                for chunk in beats.chunks(ID_CHUNK) {
                    let current = current(&tx, chunk, trusted).await?;
                    write_heartbeats(&tx, &current, &mut sampled).await?;
                    let unchecked = current.iter().filter(|current| !current.fits);
                    let unchecked: Vec<_> = unchecked.map(|current| current.row).collect();
                    judge_drifts::compare(&tx.db, &unchecked, &mut compared).await?;
                }
                Ok((sampled, compared))
            })
            .await?;
        self.judge_drifts(newest, &compared.suspects).await?;
        Ok(RecordedHeartbeats {
            fit: compared.fit,
            sampled,
        })
    }
}

/// A heartbeat of a device's newest session.
struct Current<'a> {
    row: &'a HeartbeatRow,
    /// The drift check is skipped.
    fits: bool,
    /// When the newest sample of its history was written.
    sampled_at: Option<Timestamp>,
    /// Whether `sampled_at` was read just now.
    is_news: bool,
}

/// Keeps the heartbeats whose devices exist and have no newer session. A heartbeat that says when
/// its history was last sampled was checked before, and writing it never replaces one of a newer
/// session.
async fn current<'a>(
    tx: &Tx,
    beats: &[&'a CachedHeartbeat],
    trusted: bool,
) -> Result<Vec<Current<'a>>> {
    let known = |beat: &CachedHeartbeat| beat.sampled_at.filter(|_| trusted);
    let unknown = beats.iter().filter(|beat| known(beat).is_none());
    let unknown: Vec<Stored<DeviceId>> = unknown.map(|beat| Stored(beat.row.device)).collect();
    let mut read = HashMap::with_capacity(unknown.len());
    if !unknown.is_empty() {
        for row in tx.db.query_all(&stored_heartbeats(&unknown)).await? {
            let before = StoredHeartbeat::from_query_result(&row, "")?;
            read.insert(before.id, before);
        }
    }
    let current = beats.iter().filter_map(|beat| {
        let CachedHeartbeat { row, fits, .. } = beat;
        let known = known(beat);
        if known.is_some() {
            return Some(Current {
                row,
                fits: *fits,
                sampled_at: known,
                is_news: false,
            });
        }
        let before = read.get(&Stored(row.device))?;
        (signed(row.epoch) >= before.epoch).then_some(Current {
            row,
            fits: *fits,
            sampled_at: before.sampled_at.map(Timestamp),
            is_news: true,
        })
    });
    Ok(current.collect())
}

/// Writes heartbeats. Readers take the last sign of life from them as well, so the row of the
/// device is not written.
async fn write_heartbeats(
    tx: &Tx,
    current: &[Current<'_>],
    sampled: &mut HashMap<DeviceId, Timestamp>,
) -> Result<()> {
    let mut latest = Vec::with_capacity(current.len());
    let mut samples = Vec::new();
    for current in current {
        let last = current.sampled_at;
        let last = last.filter(|last| tx.now.since(*last) < SAMPLE_EVERY);
        let beat = heartbeat_model(current.row, tx.now, last.unwrap_or(tx.now));
        if last.is_none() {
            samples.push(sample_of(&beat));
        }
        if last.is_none() || current.is_news {
            sampled.insert(current.row.device, Timestamp(beat.sampled_at));
        }
        latest.push(beat);
    }
    let stored = Expr::col((heartbeat::Entity, heartbeat::Column::Epoch));
    let written = inserted(heartbeat::Column::Epoch);
    let newer = OnConflict::column(heartbeat::Column::DeviceId)
        .update_columns(
            heartbeat::Column::iter()
                .filter(|column| !matches!(column, heartbeat::Column::DeviceId)),
        )
        .action_and_where(stored.lte(written))
        .to_owned();
    insert_all::<heartbeat::Entity>(&tx.db, latest, Some(newer)).await?;
    let once = OnConflict::columns([
        heartbeat_sample::Column::DeviceId,
        heartbeat_sample::Column::At,
    ])
    .do_nothing()
    .to_owned();
    insert_all::<heartbeat_sample::Entity>(&tx.db, samples, Some(once)).await?;
    Ok(())
}

/// What is stored about a device before its heartbeat is written.
#[derive(FromQueryResult)]
struct StoredHeartbeat {
    id: Stored<DeviceId>,
    epoch: i64,
    /// When the newest sample of its history was written.
    sampled_at: Option<i64>,
}

fn stored_heartbeats(ids: &[Stored<DeviceId>]) -> SelectStatement {
    Query::select()
        .columns([("d", device::Column::Id), ("d", device::Column::Epoch)])
        .column(("h", heartbeat::Column::SampledAt))
        .from_as(device::Entity, "d")
        .left_join(
            TableRef::from(heartbeat::Entity).alias("h"),
            Expr::col(("h", heartbeat::Column::DeviceId)).equals(("d", device::Column::Id)),
        )
        .and_where(Expr::col(("d", device::Column::Id)).is_in(padded(ids.iter().copied())))
        .to_owned()
}

fn heartbeat_model(row: &HeartbeatRow, now: Timestamp, sampled_at: Timestamp) -> heartbeat::Model {
    let releases: Vec<_> = row
        .releases
        .iter()
        .flatten()
        .map(|release| json!({ "name": release.name, "version": release.version, "digest": release.digest }))
        .collect();
    to_latest(
        to_sample(Stored(row.device), now.0, &row.vital_signs),
        signed(row.epoch),
        sampled_at.0,
        json!(releases).to_string(),
        row.leftovers.as_ref().and_then(leftovers::to_text),
    )
}
