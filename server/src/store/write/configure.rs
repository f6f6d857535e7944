//! Sets and removes configurations.

use kernex_proto::v1;
use prost::Message as _;
use sea_orm::{ActiveModelTrait, EntityTrait, IntoActiveModel};
use serde_json::json;

use crate::store::{
    db::{
        error::{Result, StoreError, not_found},
        new_event::Subject,
        sizes::insert_all,
        store::OperatorStore,
        values::{signed, unsigned},
    },
    entity::configuration,
    read::{
        configurations::{Configuration, ConfigurationScope, by_name, from_row},
        devices::find_device,
    },
    write::{
        audit::audit,
        replay::{Caller, remember, replayed},
    },
};

impl OperatorStore {
    /// Makes a configuration or replaces one. `expected` is the revision to replace; 0 replaces
    /// any.
    pub async fn set_configuration(
        &self,
        caller: &Caller,
        name: &str,
        scope: &ConfigurationScope,
        configure: &v1::Configure,
        expected: u64,
    ) -> Result<Configuration> {
        let db = &self.0;
        db.write(|tx| async move {
            if replayed::<()>(&tx, caller).await?.is_some() {
                return by_name(&tx.db, caller.scope, name)
                    .await?
                    .map(from_row)
                    .ok_or_else(|| not_found("configuration", name))?;
            }
            let known = by_name(&tx.db, caller.scope, name).await?;
            let before = known.as_ref().map_or(0, |row| unsigned(row.revision));
            if expected != 0 && expected != before {
                return Err(StoreError::Conflict {
                    kind: "configuration",
                    id: name.to_owned(),
                    revision: before,
                });
            }
            let (device_id, selector) = match scope {
                ConfigurationScope::Device(device) => (
                    Some(find_device(&tx.db, caller.scope, device).await?.id),
                    None,
                ),
                ConfigurationScope::Selector(selector) => (None, Some(selector.to_string())),
            };
            let row = configuration::Model {
                id: known.as_ref().map_or_else(|| tx.new_id(), |row| row.id),
                name: name.to_owned(),
                device_id,
                selector,
                configure: configure.encode_to_vec(),
                revision: signed(before) + 1,
                updated_at: tx.now.0,
            };
            if known.is_some() {
                row.clone()
                    .into_active_model()
                    .reset_all()
                    .update(&tx.db)
                    .await?;
            } else {
                insert_all::<configuration::Entity>(&tx.db, vec![row.clone()], None).await?;
            }
            let detail = json!({ "configuration": name, "revision": row.revision });
            audit(&tx, caller, name, detail.clone()).await?;
            tx.event(
                "configuration.changed",
                device_id.map_or(Subject::Nothing, |id| Subject::Device(id.0)),
                caller.made(detail),
            );
            remember(&tx, caller, &()).await?;
            from_row(row)
        })
        .await
    }

    pub async fn delete_configuration(&self, caller: &Caller, name: &str) -> Result<()> {
        let db = &self.0;
        db.write(|tx| async move {
            if replayed::<()>(&tx, caller).await?.is_some() {
                return Ok(());
            }
            let row = by_name(&tx.db, caller.scope, name).await?;
            let row = row.ok_or_else(|| not_found("configuration", name))?;
            configuration::Entity::delete_by_id(row.id)
                .exec(&tx.db)
                .await?;
            let detail = json!({ "configuration": name });
            audit(&tx, caller, name, detail.clone()).await?;
            tx.event(
                "configuration.deleted",
                row.device_id
                    .map_or(Subject::Nothing, |id| Subject::Device(id.0)),
                caller.made(detail),
            );
            remember(&tx, caller, &()).await
        })
        .await
    }
}
