//! Questions about devices. What is shown of a device is in several tables, so each page is read in
//! one snapshot.

use std::collections::BTreeSet;

use kernex_proto::ids::DeviceId;
use sea_orm::{
    ColumnTrait, ConnectionTrait, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect, Select,
};

use crate::store::{
    db::{
        error::{Result, not_found},
        page::{Page, Paged},
        sizes::ID_CHUNK,
        values::clean,
    },
    entity::{device, stored::Stored},
    read::{
        device_filter::DeviceFilter,
        device_rows::Device,
        scope::{Scope, View},
        selectors::{Labels, matching},
    },
};

/// Rows read at a time while looking for devices that a selector matches.
const SCAN: u64 = 500;

impl View {
    /// Devices that a filter takes, oldest first.
    pub async fn list_devices(&self, filter: &DeviceFilter, page: Page) -> Result<Paged<Device>> {
        let limit = page.limit() as usize;
        let mut after = page.after_id("devices")?.map(|id| Stored(DeviceId(id)));
        // Whether a device has a session and why it is away are in two tables.
        let snapshot = self.store.snapshot().await?;
        let candidates = self.candidates(&snapshot, filter).await?;
        let mut found = Vec::new();
        // Only the domain knows what a selector means, so rows are read in runs until the page is
        // full.
        loop {
            let mut query = candidates
                .clone()
                .order_by_asc(device::Column::Id)
                .limit(SCAN);
            if let Some(after) = after {
                query = query.filter(device::Column::Id.gt(after));
            }
            let rows = query.all(&snapshot).await?;
            let last_run = (rows.len() as u64) < SCAN;
            after = rows.last().map(|row| row.id).or(after);
            found.extend(taken(&snapshot, filter, rows).await?);
            if last_run || found.len() > limit {
                break;
            }
        }
        let rows = Paged::from_surplus(found, limit as u64, "devices", |(row, _)| row.id.bytes());
        let items = self.store.hydrate(&snapshot, rows.items).await?;
        snapshot.commit().await?;
        Ok(Paged {
            items,
            next: rows.next,
        })
    }

    /// How many devices a filter takes.
    pub async fn count_devices(&self, filter: &DeviceFilter) -> Result<u64> {
        let candidates = self.candidates(self.reader(), filter).await?;
        if filter.is_exact() {
            return Ok(candidates.count(self.reader()).await?);
        }
        let mut count = 0;
        let mut after = Stored::nil();
        loop {
            let rows = candidates
                .clone()
                .filter(device::Column::Id.gt(after))
                .order_by_asc(device::Column::Id)
                .limit(ID_CHUNK as u64)
                .all(self.reader())
                .await?;
            let Some(last) = rows.last() else {
                return Ok(count);
            };
            after = last.id;
            count += taken(self.reader(), filter, rows).await?.len() as u64;
        }
    }

    /// One device by id or name.
    pub async fn get_device(&self, id_or_name: &str) -> Result<Device> {
        let snapshot = self.store.snapshot().await?;
        let row = find_device(&snapshot, self.scope, id_or_name).await?;
        let device = self.store.whole(&snapshot, row).await?;
        snapshot.commit().await?;
        Ok(device)
    }

    /// The id of a device that is named by its id or name.
    pub async fn device_id(&self, id_or_name: &str) -> Result<DeviceId> {
        let row = find_device(self.reader(), self.scope, id_or_name).await?;
        Ok(row.id.0)
    }

    /// Those of these devices that exist and that a filter takes, oldest first.
    pub async fn devices_among(
        &self,
        filter: &DeviceFilter,
        ids: &BTreeSet<DeviceId>,
    ) -> Result<Vec<Device>> {
        let snapshot = self.store.snapshot().await?;
        let candidates = self.candidates(&snapshot, filter).await?;
        let ids: Vec<_> = ids.iter().copied().map(Stored).collect();
        let mut devices = Vec::new();
        for chunk in ids.chunks(ID_CHUNK) {
            let rows = candidates
                .clone()
                .filter(device::Column::Id.is_in(chunk.to_vec()))
                .order_by_asc(device::Column::Id)
                .all(&snapshot)
                .await?;
            let rows = taken(&snapshot, filter, rows).await?;
            devices.extend(self.store.hydrate(&snapshot, rows).await?);
        }
        snapshot.commit().await?;
        Ok(devices)
    }

    async fn candidates<C: ConnectionTrait>(
        &self,
        db: &C,
        filter: &DeviceFilter,
    ) -> Result<Select<device::Entity>> {
        let replicas = self.store.live_replicas(db).await?;
        Ok(filter.candidates(self.rows(), self.store.now(), &replicas))
    }
}

/// Those of the candidates that a filter takes, with their labels.
async fn taken<C: ConnectionTrait>(
    db: &C,
    filter: &DeviceFilter,
    mut rows: Vec<device::Model>,
) -> Result<Vec<(device::Model, Labels)>> {
    rows.retain(|row| filter.takes_name(&row.name));
    matching(db, &filter.selector, rows).await
}

/// A device by id or name.
pub(crate) async fn find_device<C: ConnectionTrait>(
    db: &C,
    scope: Scope,
    id_or_name: &str,
) -> Result<device::Model> {
    let devices = || scope.rows::<device::Entity>();
    if let Ok(id) = id_or_name.parse::<DeviceId>() {
        let by_id = devices().filter(device::Column::Id.eq(id.0));
        if let Some(row) = by_id.one(db).await? {
            return Ok(row);
        }
    }
    let by_name = devices().filter(device::Column::Name.eq(clean(id_or_name)));
    let row = by_name.one(db).await?;
    row.ok_or_else(|| not_found("device", id_or_name))
}
