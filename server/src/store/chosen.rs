//! The devices an order is about: named by id or by name, or meant by a selector.

use std::collections::BTreeMap;

use sea_orm::{
    ColumnTrait, ConnectionTrait, DerivePartialModel, EntityTrait, QueryFilter, QueryOrder,
    QuerySelect, Select,
};
use uuid::Uuid;

use super::{
    Result,
    deployments::NewDeployment,
    devices::{candidates, clean, matching, not_found},
    entity::device,
    transaction::{ID_CHUNK, padded},
};
use crate::domain::selector::Selector;

/// What an order has to know of a device. Not its whole row: an order may be about the whole fleet.
#[derive(Debug, Clone, DerivePartialModel)]
#[sea_orm(entity = "device::Entity")]
pub(crate) struct Chosen {
    pub(crate) id: Uuid,
    pub(crate) name: String,
    pub(crate) generation: i64,
    pub(crate) conflicted: bool,
}

impl From<device::Model> for Chosen {
    fn from(row: device::Model) -> Self {
        Self {
            id: row.id,
            name: row.name,
            generation: row.generation,
            conflicted: row.conflicted,
        }
    }
}

/// The union of what was named and selected, by id.
pub(crate) async fn select_devices<C: ConnectionTrait>(
    db: &C,
    new: &NewDeployment,
) -> Result<BTreeMap<Uuid, Chosen>> {
    let mut devices = BTreeMap::new();
    let ids: Vec<Uuid> = new.device_ids.iter().map(|id| id.0).collect();
    for chunk in ids.chunks(ID_CHUNK) {
        let named =
            device::Entity::find().filter(device::Column::Id.is_in(padded(chunk.iter().copied())));
        let rows = read(db, named).await?;
        devices.extend(rows.into_iter().map(|row| (row.id, row)));
    }
    if let Some(missing) = ids.iter().find(|id| !devices.contains_key(id)) {
        return Err(not_found("device", missing));
    }
    for chunk in new.device_names.chunks(ID_CHUNK) {
        let names = padded(chunk.iter().map(|name| clean(name)));
        let rows = read(
            db,
            device::Entity::find().filter(device::Column::Name.is_in(names)),
        )
        .await?;
        let missing = chunk
            .iter()
            .find(|name| rows.iter().all(|row| row.name != **name));
        if let Some(missing) = missing {
            return Err(not_found("device", missing));
        }
        devices.extend(rows.into_iter().map(|row| (row.id, row)));
    }
    if let Some(selector) = &new.selector {
        select_by_label(db, selector, &mut devices).await?;
    }
    Ok(devices)
}

async fn select_by_label<C: ConnectionTrait>(
    db: &C,
    selector: &Selector,
    devices: &mut BTreeMap<Uuid, Chosen>,
) -> Result<()> {
    let mut after = Uuid::nil();
    loop {
        let run = candidates(selector)
            .filter(device::Column::Id.gt(after))
            .order_by_asc(device::Column::Id)
            .limit(ID_CHUNK as u64);
        let (last, found) = if selector.is_all() {
            let rows = read(db, run).await?;
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

async fn read<C: ConnectionTrait>(db: &C, query: Select<device::Entity>) -> Result<Vec<Chosen>> {
    Ok(query.into_partial_model().all(db).await?)
}
