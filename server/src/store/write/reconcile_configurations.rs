//! Gives each device the configuration that applies to it.

use kernex_proto::ids::DeviceId;
use sea_orm::sea_query::{Expr, ExprTrait as _, OnConflict};

use crate::store::{
    db::{
        error::Result,
        raw::inserted,
        sizes::{ID_CHUNK, insert_all},
        store::Store,
    },
    entity::device_configuration,
};

impl Store {
    /// Gives each of these devices its next revision, if another configuration applies to it than
    /// before.
    pub async fn reconcile_configurations(&self, devices: &[DeviceId]) -> Result<()> {
        for chunk in devices.chunks(ID_CHUNK) {
            let changed = self.changed_configurations(chunk).await?;
            if changed.is_empty() {
                continue;
            }
            let changed = &changed;
            self.write(|tx| async move {
                // Another replica may have seen the same change. The first to raise the revision
                // wins.
                let newer = OnConflict::column(device_configuration::Column::DeviceId)
                    .update_columns([
                        device_configuration::Column::Revision,
                        device_configuration::Column::Configure,
                        device_configuration::Column::SentEpoch,
                    ])
                    .action_and_where(
                        Expr::col((
                            device_configuration::Entity,
                            device_configuration::Column::Revision,
                        ))
                        .lt(inserted(device_configuration::Column::Revision)),
                    )
                    .to_owned();
                insert_all::<device_configuration::Entity>(&tx.db, changed.clone(), Some(newer))
                    .await?;
                Ok(())
            })
            .await?;
        }
        Ok(())
    }
}
