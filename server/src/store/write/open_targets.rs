//! Opens held targets.

use kernex_proto::ids::DeviceId;
use sea_orm::{ColumnTrait, Condition};

use crate::{
    clock::Timestamp,
    domain::attempt::{Fact, State},
    store::{
        db::{error::Result, sizes::ID_CHUNK, transaction::Tx},
        entity::{attempt, deployment},
        read::{held_targets::choose_held, phases::budgets},
        write::change_attempts::Batch,
    },
};

/// Opens held targets. Their time for delivery begins now.
pub(crate) async fn open_targets(
    tx: &Tx,
    row: &deployment::Model,
    through: u32,
    at_most: u32,
) -> Result<Vec<DeviceId>> {
    let chosen = choose_held(&tx.db, row.id, through, at_most, &budgets(row)?).await?;
    let deadline = Timestamp(tx.now.0.saturating_add(row.delivery_us));
    let mut devices = Vec::with_capacity(chosen.len());
    for chunk in chosen.chunks(ID_CHUNK) {
        let mut batch = Batch::new(tx);
        let held = Condition::all()
            .add(attempt::Column::TargetId.is_in(chunk.iter().copied()))
            .add(attempt::Column::State.eq(State::Held.as_str()));
        batch.load(held, None).await?;
        for (_, entry) in batch.iter_mut() {
            let _ = entry.apply(Fact::Opened { deadline }, tx.now);
            devices.push(entry.row.device_id.0);
        }
        batch.save().await?;
    }
    Ok(devices)
}
