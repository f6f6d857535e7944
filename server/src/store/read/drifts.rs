//! What devices should run by their outcomes, where they drift, and which bundle names are about to
//! change.

use std::collections::BTreeMap;

use kernex_proto::{ids::DeviceId, v1};
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QuerySelect,
    sea_query::{Expr, Func},
};

use crate::{
    clock::Timestamp,
    domain::{
        attempt::State,
        device::drift::{Drift, KnownReleases, Running},
    },
    store::{
        db::{error::Result, sizes::padded, transaction::Tx, values::clean},
        entity::{attempt, device_drift, device_release, stored::Stored},
        read::{attempts::is_unresolved, scope::View},
    },
};

/// What a device says it runs, by bundle name.
pub(crate) fn reported_releases(releases: &[v1::ActiveRelease]) -> BTreeMap<String, Running> {
    releases
        .iter()
        .map(|release| {
            let running = Running {
                version: clean(&release.version),
                digest: clean(&release.digest),
            };
            (clean(&release.name), running)
        })
        .collect()
}

impl View {
    /// How many devices drift now.
    pub async fn drifted_devices(&self) -> Result<usize> {
        let devices = device_drift::Column::DeviceId.into_expr();
        let n: Option<i64> = self
            .rows::<device_drift::Entity>()
            .select_only()
            .column_as(Expr::from(Func::count_distinct(devices)), "n")
            .into_tuple()
            .one(self.reader())
            .await?;
        Ok(n.map_or(0, |n| usize::try_from(n).unwrap_or(0)))
    }
}

/// What outcomes said and which drifts are recorded. [`names_in_flux`] adds what may change.
pub(crate) async fn known_releases<C: ConnectionTrait>(
    db: &C,
    ids: &[Stored<DeviceId>],
) -> Result<BTreeMap<Stored<DeviceId>, KnownReleases>> {
    let mut known = BTreeMap::<Stored<DeviceId>, KnownReleases>::new();
    let releases = device_release::Entity::find()
        .filter(device_release::Column::DeviceId.is_in(padded(ids.iter().copied())))
        .all(db)
        .await?;
    for row in releases {
        let running = Running {
            version: row.version,
            digest: row.digest,
        };
        let of = known.entry(row.device_id).or_default();
        of.expected.insert(row.name, running);
    }
    let drifts = device_drift::Entity::find()
        .filter(device_drift::Column::DeviceId.is_in(padded(ids.iter().copied())))
        .all(db)
        .await?;
    for row in drifts {
        let running =
            |version, digest: Option<String>| digest.map(|digest| Running { version, digest });
        let drift = Drift {
            expected: running(row.expected_version, row.expected_digest),
            actual: running(row.actual_version, row.actual_digest),
            since: Timestamp(row.since),
        };
        let of = known.entry(row.device_id).or_default();
        of.drifts.insert(row.name, drift);
    }
    Ok(known)
}

/// Bundle names with an attempt that is open or not answered, by device. Held attempts are left
/// out: they have not begun anywhere.
pub(crate) async fn names_in_flux(
    tx: &Tx,
    ids: &[Stored<DeviceId>],
) -> Result<Vec<(Stored<DeviceId>, String)>> {
    Ok(attempt::Entity::find()
        .select_only()
        .columns([attempt::Column::DeviceId, attempt::Column::BundleName])
        .filter(attempt::Column::DeviceId.is_in(padded(ids.iter().copied())))
        .filter(is_unresolved())
        .filter(attempt::Column::State.ne(State::Held.as_str()))
        .into_tuple()
        .all(&tx.db)
        .await?)
}
