//! Some devices by id, for those who know that something about them changed.

use std::collections::BTreeSet;

use kernex_proto::ids::DeviceId;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder};

use super::{Device, matching};
use crate::{
    domain::selector::Selector,
    store::{Result, Store, entity::device, transaction::ID_CHUNK},
};

impl Store {
    /// Those of these devices that exist and that a selector means, oldest first.
    pub async fn devices_among(
        &self,
        selector: &Selector,
        ids: &BTreeSet<DeviceId>,
    ) -> Result<Vec<Device>> {
        let ids: Vec<_> = ids.iter().map(|id| id.0).collect();
        let mut devices = Vec::new();
        for chunk in ids.chunks(ID_CHUNK) {
            let rows = device::Entity::find()
                .filter(device::Column::Id.is_in(chunk.to_vec()))
                .order_by_asc(device::Column::Id)
                .all(self.reader())
                .await?;
            let rows = matching(self.reader(), selector, rows).await?;
            devices.extend(self.hydrate(self.reader(), rows).await?);
        }
        Ok(devices)
    }
}
