//! A device's own row.

use kernex_proto::v1;
use sea_orm::{ActiveModelTrait, IntoActiveModel};

use crate::store::{
    db::{
        error::Result,
        transaction::Tx,
        values::{clean, signed},
    },
    entity::device,
};

/// Writes a whole row back.
pub(crate) async fn update(tx: &Tx, row: device::Model) -> Result<()> {
    row.into_active_model().reset_all().update(&tx.db).await?;
    Ok(())
}

/// What an agent says about its machine, cut to the sizes of the columns.
pub(crate) fn described(mut row: device::Model, inventory: &v1::Inventory) -> device::Model {
    row.os = clean(&inventory.os);
    row.arch = clean(&inventory.arch);
    row.hostname = clean(&inventory.hostname);
    row.kernel = clean(&inventory.kernel);
    row.cpu_count = i64::from(inventory.cpu_count);
    row.memory_bytes = signed(inventory.memory_bytes);
    row
}
