//! The devices that an order selects: by id, by name, or by labels.

use std::collections::BTreeMap;

use kernex_proto::ids::DeviceId;
use sea_orm::{
    ColumnTrait, ConnectionTrait, FromQueryResult, QueryFilter, QueryOrder, QuerySelect, Select,
    sea_query::{Expr, ExprTrait, Query, TableRef},
};

use crate::{
    domain::{attempt::State, selector::Selector},
    store::{
        db::{
            error::{Result, not_found},
            sizes::{ID_CHUNK, padded},
            values::clean,
        },
        entity::{attempt, bundle, device, stored::Stored, target},
        read::{
            attempts::is_unresolved,
            joined::is_of_target,
            new_deployment::NewDeployment,
            scope::Scope,
            selectors::{candidates, matching},
        },
    },
};

/// What an order has to know of a device. Few columns, as an order may select the whole fleet.
#[derive(Debug, Clone, FromQueryResult)]
pub(crate) struct SelectedDevice {
    pub(crate) id: Stored<DeviceId>,
    pub(crate) name: String,
    pub(crate) generation: i64,
    pub(crate) conflicted: bool,
    pub(crate) disk_fault: Option<String>,
    /// Whether an attempt of the bundle name may be unresolved. When false, none is.
    pub(crate) may_be_busy: bool,
    /// Whether the bundle's bytes may have failed there before. When false, they have not.
    pub(crate) may_have_failed: bool,
}

impl From<device::Model> for SelectedDevice {
    fn from(row: device::Model) -> Self {
        Self {
            id: row.id,
            name: row.name,
            generation: row.generation,
            conflicted: row.conflicted,
            disk_fault: row.disk_fault,
            may_be_busy: true,
            may_have_failed: true,
        }
    }
}

/// The union of what was named and selected, by id, for an order of this bundle.
pub(crate) async fn select_devices<C: ConnectionTrait>(
    db: &C,
    scope: Scope,
    new: &NewDeployment,
    bundle: &bundle::Model,
) -> Result<BTreeMap<Stored<DeviceId>, SelectedDevice>> {
    let mut devices = BTreeMap::new();
    let ids: Vec<Stored<DeviceId>> = new.device_ids.iter().copied().map(Stored).collect();
    for chunk in ids.chunks(ID_CHUNK) {
        let named = scope
            .rows::<device::Entity>()
            .filter(device::Column::Id.is_in(padded(chunk.iter().copied())));
        let rows = read(db, named, bundle).await?;
        devices.extend(rows.into_iter().map(|row| (row.id, row)));
    }
    if let Some(missing) = ids.iter().find(|id| !devices.contains_key(id)) {
        return Err(not_found("device", missing));
    }
    for chunk in new.device_names.chunks(ID_CHUNK) {
        let names = padded(chunk.iter().map(|name| clean(name)));
        let named = scope
            .rows::<device::Entity>()
            .filter(device::Column::Name.is_in(names));
        let rows = read(db, named, bundle).await?;
        let missing = chunk
            .iter()
            .find(|name| rows.iter().all(|row| row.name != **name));
        if let Some(missing) = missing {
            return Err(not_found("device", missing));
        }
        devices.extend(rows.into_iter().map(|row| (row.id, row)));
    }
    if let Some(selector) = &new.selector {
        select_by_label(db, scope, selector, bundle, &mut devices).await?;
    }
    Ok(devices)
}

async fn select_by_label<C: ConnectionTrait>(
    db: &C,
    scope: Scope,
    selector: &Selector,
    bundle: &bundle::Model,
    devices: &mut BTreeMap<Stored<DeviceId>, SelectedDevice>,
) -> Result<()> {
    let mut after = Stored::nil();
    loop {
        let run = candidates(scope.rows(), selector)
            .filter(device::Column::Id.gt(after))
            .order_by_asc(device::Column::Id)
            .limit(ID_CHUNK as u64);
        let (last, found) = if selector.is_all() {
            let rows = read(db, run, bundle).await?;
            (rows.last().map(|row| row.id), rows)
        } else {
            let rows = run.all(db).await?;
            let last = rows.last().map(|row| row.id);
            let found = matching(db, selector, rows).await?;
            (last, found.into_iter().map(|(row, _)| row.into()).collect())
        };
        let Some(last) = last else {
            return Ok(());
        };
        after = last;
        devices.extend(found.into_iter().map(|row| (row.id, row)));
    }
}

async fn read<C: ConnectionTrait>(
    db: &C,
    which: Select<device::Entity>,
    bundle: &bundle::Model,
) -> Result<Vec<SelectedDevice>> {
    let query = which
        .select_only()
        .columns([
            device::Column::Id,
            device::Column::Name,
            device::Column::Generation,
            device::Column::Conflicted,
            device::Column::DiskFault,
        ])
        .column_as(is_busy(&bundle.name), "may_be_busy")
        .column_as(has_failed(&bundle.digest), "may_have_failed");
    Ok(query.into_model().all(db).await?)
}

/// In a statement about devices: whether an attempt under this bundle name is unresolved.
fn is_busy(bundle_name: &str) -> Expr {
    let attempts = Query::select()
        .column(attempt::Column::TargetId)
        .from(attempt::Entity)
        .and_where(
            Expr::col((attempt::Entity, attempt::Column::DeviceId))
                .equals((device::Entity, device::Column::Id)),
        )
        .and_where(attempt::Column::BundleName.eq(bundle_name))
        .and_where(is_unresolved())
        .to_owned();
    Expr::exists(attempts)
}

/// In a statement about devices: whether these bytes have failed there, in time or late.
fn has_failed(digest: &str) -> Expr {
    let failed = |column| Expr::col(("a", column)).eq(State::Failed.as_str());
    let attempts = Query::select()
        .column(("a", attempt::Column::TargetId))
        .from_as(target::Entity, "t")
        .inner_join(TableRef::from(attempt::Entity).alias("a"), is_of_target())
        .and_where(
            Expr::col(("t", target::Column::DeviceId)).equals((device::Entity, device::Column::Id)),
        )
        .and_where(Expr::col(("t", target::Column::Digest)).eq(digest))
        .and_where(failed(attempt::Column::State).or(failed(attempt::Column::LateState)))
        .to_owned();
    Expr::exists(attempts)
}
