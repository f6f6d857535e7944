//! Has a newer order supersede older ones.

use std::collections::BTreeSet;

use kernex_proto::ids::DeviceId;
use sea_orm::{ColumnTrait, Condition};

use crate::{
    domain::attempt::Closing,
    store::{
        db::{
            error::Result,
            sizes::{ID_CHUNK, padded},
            transaction::Deciding,
        },
        entity::{attempt, stored::Stored},
        read::attempts::is_unresolved,
        write::change_attempts::Batch,
    },
};

/// Closes older attempts of the same bundle name that have not begun; the others go on. Returns the
/// devices that still have an unresolved attempt. The new one has to wait there.
pub(crate) async fn supersede(
    tx: &Deciding,
    devices: &[Stored<DeviceId>],
    bundle_name: &str,
) -> Result<BTreeSet<Stored<DeviceId>>> {
    let mut busy = BTreeSet::new();
    for chunk in devices.chunks(ID_CHUNK) {
        let mut batch = Batch::deciding(tx);
        let unresolved = Condition::all()
            .add(attempt::Column::DeviceId.is_in(padded(chunk.iter().copied())))
            .add(attempt::Column::BundleName.eq(bundle_name))
            .add(is_unresolved());
        batch.load(unresolved, None).await?;
        for (_, entry) in batch.iter_mut() {
            let _ = entry.close(tx, Closing::Supersede, tx.now);
            if entry.facts().unresolved {
                busy.insert(entry.row.device_id);
            }
        }
        batch.save().await?;
    }
    Ok(busy)
}
