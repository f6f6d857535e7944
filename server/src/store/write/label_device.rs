//! Sets and removes labels of a device.

use std::collections::BTreeMap;

use kernex_proto::ids::DeviceId;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter};
use serde_json::json;

use crate::{
    domain::selector::{RESERVED_PREFIX, check_key, check_value},
    store::{
        db::{
            error::{Result, StoreError},
            new_event::Subject,
            sizes::insert_all,
            store::OperatorStore,
            values::{signed, unsigned},
        },
        entity::{device_label, stored::Stored},
        read::{device_rows::Device, devices::find_device, selectors::Labels},
        write::{
            audit::audit,
            device_row::update,
            join::join_deployments,
            replay::{Caller, remember, replayed},
        },
    },
};

impl OperatorStore {
    /// Sets labels and removes labels. `revision` is the one to change; 0 changes any.
    pub async fn update_labels(
        &self,
        caller: &Caller,
        id_or_name: &str,
        set: BTreeMap<String, String>,
        remove: Vec<String>,
        revision: u64,
    ) -> Result<Device> {
        let db = &self.0;
        check_labels(&set)?;
        let (set, remove) = (&set, &remove);
        db.decide(|tx| async move {
            if let Some(id) = replayed::<Stored<DeviceId>>(&tx, caller).await? {
                let row = find_device(&tx.db, caller.scope, &id.to_string()).await?;
                return db.whole(&tx.db, row).await;
            }
            let mut row = find_device(&tx.db, caller.scope, id_or_name).await?;
            if revision != 0 && signed(revision) != row.revision {
                return Err(StoreError::Conflict {
                    kind: "device",
                    id: row.name,
                    revision: unsigned(row.revision),
                });
            }
            let leaving = remove.iter().chain(set.keys()).cloned();
            device_label::Entity::delete_many()
                .filter(device_label::Column::DeviceId.eq(row.id))
                .filter(device_label::Column::Key.is_in(leaving))
                .exec(&tx.db)
                .await?;
            let labels = set.iter().map(|(key, value)| device_label::Model {
                device_id: row.id,
                key: key.clone(),
                value: value.clone(),
            });
            insert_all::<device_label::Entity>(&tx.db, labels.collect(), None).await?;
            row.revision += 1;
            update(&tx, row.clone()).await?;
            remember(&tx, caller, &row.id).await?;
            audit(&tx, caller, row.id, json!({ "set": set, "remove": remove })).await?;
            let detail = json!({ "name": row.name, "set": set, "remove": remove });
            tx.event(
                "device.labelled",
                Subject::Device(row.id.0),
                caller.made(detail),
            );
            join_deployments(&tx, &[row.id.0]).await?;
            let whole = db.whole(&tx.db, row).await?;
            if whole.labels.len() > MAX_LABELS {
                return Err(invalid_labels(format!(
                    "a device has at most {MAX_LABELS} labels"
                )));
            }
            Ok(whole)
        })
        .await
    }
}

/// Labels that a device may have.
pub(crate) const MAX_LABELS: usize = 64;

/// Checks labels that a caller wants to set.
pub(crate) fn check_labels(labels: &Labels) -> Result<()> {
    if labels.len() > MAX_LABELS {
        return Err(invalid_labels(format!(
            "a device has at most {MAX_LABELS} labels"
        )));
    }
    for (key, value) in labels {
        check_key(key)
            .and_then(|()| check_value(value))
            .map_err(invalid_labels)?;
        if key.starts_with(RESERVED_PREFIX) {
            return Err(invalid_labels(format!(
                "`{key}` belongs to Kernex; choose a key without {RESERVED_PREFIX}"
            )));
        }
    }
    Ok(())
}

pub(crate) fn invalid_labels(why: String) -> StoreError {
    StoreError::Invalid {
        field: "labels",
        why,
    }
}
