//! Compares heartbeats with outcomes: which devices run something else than their last outcome
//! said, and since when.
//!
//! Many heartbeats are compared at once, without the writers' lock. A device that seems to have
//! changed is judged again under the lock, because an outcome may be about to be written: see
//! [`KnownReleases::judge`](crate::domain::device::drift::KnownReleases::judge).

use std::collections::{BTreeMap, BTreeSet, HashSet};

use kernex_proto::ids::DeviceId;
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, sea_query::OnConflict};
use serde_json::json;

use crate::{
    clock::Timestamp,
    domain::device::drift::{Drift, Running},
    store::{
        db::{
            error::Result,
            event_limit::EventLimit,
            new_event::Subject,
            sizes::{ID_CHUNK, insert_all, padded},
            store::Store,
            transaction::Tx,
            values::signed,
        },
        entity::{device, device_drift, stored::Stored},
        read::drifts::{known_releases, names_in_flux, reported_releases},
        write::heartbeat_row::{HeartbeatRow, Newest},
    },
};

/// What a comparison of heartbeats found.
#[derive(Debug, Default)]
pub(crate) struct Compared {
    /// Devices that run what is expected.
    pub(crate) fit: HashSet<DeviceId>,
    /// Devices that seem to have started or stopped drifting.
    pub(crate) suspects: Vec<Stored<DeviceId>>,
}

/// Compares heartbeats with what is known of their devices.
pub(crate) async fn compare<C: ConnectionTrait>(
    db: &C,
    rows: &[&HeartbeatRow],
    compared: &mut Compared,
) -> Result<()> {
    let news: Vec<_> = rows
        .iter()
        .filter_map(|row| Some((row.device, row.releases.as_ref()?)))
        .collect();
    if news.is_empty() {
        return Ok(());
    }
    let ids: Vec<Stored<DeviceId>> = news.iter().map(|(device, _)| Stored(*device)).collect();
    let mut known = known_releases(db, &ids).await?;
    for (device, releases) in news {
        let known = known.remove(&Stored(device)).unwrap_or_default();
        if known.judge(&reported_releases(releases), Timestamp(0)) == known.drifts {
            compared.fit.insert(device);
        } else {
            compared.suspects.push(Stored(device));
        }
    }
    Ok(())
}

impl Store {
    /// Judges devices that seem to have started or stopped drifting.
    pub(crate) async fn judge_drifts(
        &self,
        newest: &Newest<'_>,
        suspects: &[Stored<DeviceId>],
    ) -> Result<()> {
        if suspects.is_empty() {
            return Ok(());
        }
        self.write(|tx| async move {
            for chunk in suspects.chunks(ID_CHUNK) {
                judge(&tx, newest, chunk, self.event_limit()).await?;
            }
            Ok(())
        })
        .await
    }
}

async fn judge(
    tx: &Tx,
    newest: &Newest<'_>,
    ids: &[Stored<DeviceId>],
    limit: &EventLimit,
) -> Result<()> {
    let devices = device::Entity::find()
        .filter(device::Column::Id.is_in(padded(ids.iter().copied())))
        .all(&tx.db)
        .await?;
    let mut known = known_releases(&tx.db, ids).await?;
    for (device, name) in names_in_flux(tx, ids).await? {
        known.entry(device).or_default().in_flux.insert(name);
    }
    for device in devices {
        let Some(row) = newest.get(&device.id).map(|beat| &beat.row) else {
            continue;
        };
        // A heartbeat of an older session does not count.
        let (Some(releases), true) = (&row.releases, signed(row.epoch) >= device.epoch) else {
            continue;
        };
        let known = known.remove(&device.id).unwrap_or_default();
        let drifts = known.judge(&reported_releases(releases), tx.now);
        write_drifts(tx, &device, &known.drifts, drifts, limit).await?;
    }
    Ok(())
}

/// Writes which drifts have started or ended. A device that has used up its events has its new
/// drift not written either. The drift still counts as new in the next heartbeat, and is written
/// once an event is allowed.
async fn write_drifts(
    tx: &Tx,
    device: &device::Model,
    before: &BTreeMap<String, Drift>,
    now: BTreeMap<String, Drift>,
    limit: &EventLimit,
) -> Result<()> {
    let gone: Vec<&String> = before
        .keys()
        .filter(|name| !now.contains_key(*name))
        .collect();
    if !gone.is_empty() {
        device_drift::Entity::delete_many()
            .filter(device_drift::Column::DeviceId.eq(device.id))
            .filter(device_drift::Column::Name.is_in(gone))
            .exec(&tx.db)
            .await?;
    }
    let changed: BTreeMap<&String, &Drift> = now
        .iter()
        .filter(|(name, drift)| before.get(*name) != Some(drift))
        .take_while(|_| limit.take(device.id.0))
        .collect();
    for (name, drift) in &changed {
        let word = |running: &Option<Running>| running.as_ref().map(|it| it.version.clone());
        let (expected, actual) = (word(&drift.expected), word(&drift.actual));
        tracing::info!(device = %device.id, bundle = name, expected, actual, "a device runs something else than its last outcome said");
        let detail =
            json!({ "name": device.name, "bundle": name, "expected": expected, "actual": actual });
        tx.event("device.drifted", Subject::Device(device.id.0), detail);
    }
    let rows = changed
        .into_iter()
        .map(|(name, drift)| row_of(device.id, name, drift));
    let newer = OnConflict::columns([device_drift::Column::DeviceId, device_drift::Column::Name])
        .update_columns([
            device_drift::Column::ExpectedVersion,
            device_drift::Column::ExpectedDigest,
            device_drift::Column::ActualVersion,
            device_drift::Column::ActualDigest,
        ])
        .to_owned();
    insert_all::<device_drift::Entity>(&tx.db, rows.collect(), Some(newer)).await?;
    if now.is_empty() && !before.is_empty() {
        tx.device_event("device.settled", device.id.0, &device.name);
    }
    Ok(())
}

/// Ends the drifts of these bundle names, because an outcome has just said what runs.
pub(crate) async fn clear_drifts(
    tx: &Tx,
    told: &BTreeSet<(Stored<DeviceId>, String)>,
) -> Result<()> {
    let devices: BTreeSet<Stored<DeviceId>> = told.iter().map(|(device, _)| *device).collect();
    let devices: Vec<Stored<DeviceId>> = devices.into_iter().collect();
    for chunk in devices.chunks(ID_CHUNK) {
        let drifting = device_drift::Entity::find()
            .filter(device_drift::Column::DeviceId.is_in(padded(chunk.iter().copied())))
            .all(&tx.db)
            .await?;
        let mut left: BTreeMap<Stored<DeviceId>, usize> = BTreeMap::new();
        for row in drifting {
            let key = (row.device_id, row.name);
            let settled = told.contains(&key);
            *left.entry(key.0).or_default() += usize::from(!settled);
            if settled {
                device_drift::Entity::delete_by_id(key).exec(&tx.db).await?;
            }
        }
        let settled = left.into_iter().filter(|(_, left)| *left == 0);
        let settled: Vec<Stored<DeviceId>> = settled.map(|(device, _)| device).collect();
        if settled.is_empty() {
            continue;
        }
        let rows = device::Entity::find()
            .filter(device::Column::Id.is_in(settled))
            .all(&tx.db)
            .await?;
        for device in rows {
            tx.device_event("device.settled", device.id.0, &device.name);
        }
    }
    Ok(())
}

fn row_of(device: Stored<DeviceId>, name: &str, drift: &Drift) -> device_drift::Model {
    let split = |running: &Option<Running>| {
        let digest = running.as_ref().map(|running| running.digest.clone());
        let version = running.as_ref().map(|running| running.version.clone());
        (version.unwrap_or_default(), digest)
    };
    let (expected_version, expected_digest) = split(&drift.expected);
    let (actual_version, actual_digest) = split(&drift.actual);
    device_drift::Model {
        device_id: device,
        name: name.to_owned(),
        expected_version,
        expected_digest,
        actual_version,
        actual_digest,
        since: drift.since.0,
    }
}
