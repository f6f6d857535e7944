//! Learns from outcomes what devices run, by bundle name.

use std::collections::{BTreeMap, BTreeSet};

use kernex_proto::{
    ids::{DeviceId, Digest},
    v1,
};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, sea_query::OnConflict};

use crate::{
    clock::Timestamp,
    store::{
        db::{
            error::Result,
            sizes::{ID_CHUNK, insert_all, padded},
            transaction::Tx,
            values::clean,
        },
        entity::{device_release, stored::Stored},
        read::device_rows::release_from,
        write::judge_drifts,
    },
};

/// Most bundle names that a device may report. Beyond that only deployments add names.
const MAX_NAMES: usize = 256;

type Key = (Stored<DeviceId>, String);

/// What some devices run, while outcomes change it.
#[derive(Debug, Default)]
pub(crate) struct Releases {
    known: BTreeMap<Key, device_release::Model>,
    changed: BTreeSet<Key>,
    /// Names that an outcome reported, whether it changed anything or not.
    told: BTreeSet<Key>,
}

impl Releases {
    /// What is known to run on these devices.
    pub(crate) async fn of(tx: &Tx, devices: BTreeSet<Stored<DeviceId>>) -> Result<Self> {
        let mut releases = Self::default();
        let devices: Vec<Stored<DeviceId>> = devices.into_iter().collect();
        for chunk in devices.chunks(ID_CHUNK) {
            let rows = device_release::Entity::find()
                .filter(device_release::Column::DeviceId.is_in(padded(chunk.iter().copied())))
                .all(&tx.db)
                .await?;
            let rows = rows
                .into_iter()
                .map(|row| ((row.device_id, row.name.clone()), row));
            releases.known.extend(rows);
        }
        Ok(releases)
    }

    /// What runs under a name; without a digest when nothing does.
    pub(crate) fn running(&self, device: Stored<DeviceId>, name: &str) -> v1::ActiveRelease {
        let row = self.known.get(&(device, name.to_owned()));
        row.cloned().map(release_from).unwrap_or_default()
    }

    /// Whether a device may report a bundle name that no deployment gave it. A device that invents
    /// names has no end of them.
    pub(crate) fn has_room(&self, device: Stored<DeviceId>, name: &str) -> bool {
        let known = self.known.range((device, String::new())..);
        let mut known = known.take_while(|((of, _), _)| *of == device);
        self.known.contains_key(&(device, name.to_owned())) || known.nth(MAX_NAMES - 1).is_none()
    }

    /// Takes over what an outcome says about a name.
    pub(crate) fn learn(
        &mut self,
        device: Stored<DeviceId>,
        name: &str,
        active: Option<&v1::ActiveRelease>,
        now: Timestamp,
    ) {
        let key = (device, name.to_owned());
        self.told.insert(key.clone());
        match active {
            Some(active) if active.digest.parse::<Digest>().is_ok() => {
                let Some(row) = release(&key, active, self.known.get(&key), now) else {
                    return;
                };
                self.known.insert(key.clone(), row);
            }
            Some(active) => {
                tracing::warn!(%device, digest = active.digest, "a release without a digest was ignored");
                return;
            }
            None if self.known.remove(&key).is_some() => {}
            None => return,
        }
        self.changed.insert(key);
    }

    pub(crate) async fn save(self, tx: &Tx) -> Result<()> {
        let mut rows = Vec::new();
        for key in &self.changed {
            match self.known.get(key) {
                Some(row) => rows.push(row.clone()),
                None => {
                    device_release::Entity::delete_by_id(key.clone())
                        .exec(&tx.db)
                        .await?;
                }
            }
        }
        let newer = OnConflict::columns([
            device_release::Column::DeviceId,
            device_release::Column::Name,
        ])
        .update_columns([
            device_release::Column::Version,
            device_release::Column::Digest,
            device_release::Column::PreviousDigest,
            device_release::Column::Since,
        ])
        .to_owned();
        insert_all::<device_release::Entity>(&tx.db, rows, Some(newer)).await?;
        judge_drifts::clear_drifts(tx, &self.told).await
    }
}

/// The row to write. `None` when nothing has changed, so that `since` stays.
fn release(
    key: &Key,
    active: &v1::ActiveRelease,
    before: Option<&device_release::Model>,
    now: Timestamp,
) -> Option<device_release::Model> {
    if before.is_some_and(|row| row.digest == active.digest && row.version == active.version) {
        return None;
    }
    // The device can go back to what its last outcome said before. Where no outcome has said
    // anything, the device's own word counts.
    let told = before
        .map(|row| row.digest.as_str())
        .filter(|told| *told != active.digest);
    let known = Some(active.previous_digest.as_str())
        .filter(|known| known.parse::<Digest>().is_ok() && *known != active.digest);
    let earlier = before.map(|row| row.previous_digest.as_str());
    let previous = told.or(known).or(earlier).unwrap_or_default().to_owned();
    Some(device_release::Model {
        device_id: key.0,
        name: key.1.clone(),
        version: clean(&active.version),
        digest: active.digest.clone(),
        previous_digest: previous,
        since: now.0,
    })
}
