//! Deletes a bundle that nobody needs.

use kernex_proto::ids::{DeploymentId, DeviceId};
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter,
    sea_query::{Expr, ExprTrait, Query, TableRef},
};
use serde_json::json;

use crate::{
    domain::bundle_reference::BundleReference,
    store::{
        db::{
            error::{Result, StoreError},
            new_event::Subject,
            store::OperatorStore,
            transaction::Tx,
        },
        entity::{
            attempt, bundle, device, device_drift, device_release,
            stored::{BundleId, Stored},
            target,
        },
        read::{
            attempts::open_states,
            bundles::{BundleRow, bundle_from, find_bundle},
            dynamic::may_still_deploy,
            joined::is_of_target,
        },
        write::{
            audit::audit,
            replay::{Caller, remember, replayed},
        },
    },
};

impl OperatorStore {
    /// Deletes a bundle, unless an open target or a device needs it. Its bytes may be deleted when
    /// [`digest_in_use`](crate::store::View::digest_in_use) says no.
    pub async fn delete_bundle(&self, caller: &Caller, reference: &str) -> Result<BundleRow> {
        let db = &self.0;
        db.write(|tx| async move {
            if let Some(row) = replayed::<StoredBundle>(&tx, caller).await? {
                return Ok(bundle_from(row.into())?);
            }
            if let BundleReference::Name(_) = BundleReference::parse(reference) {
                return Err(StoreError::Invalid {
                    field: "bundle",
                    why: format!("`{reference}` names no version; say which is to be deleted"),
                });
            }
            let row = find_bundle(&tx.db, caller.scope, reference).await?;
            if let Some(why) = needed_by(&tx, &row).await? {
                return Err(StoreError::InUse {
                    kind: "bundle",
                    id: reference.to_owned(),
                    why,
                });
            }
            bundle::Entity::delete_by_id(row.id).exec(&tx.db).await?;
            remember(&tx, caller, &StoredBundle::from(row.clone())).await?;
            let detail =
                json!({ "bundle": format!("{}:{}", row.name, row.version), "digest": row.digest });
            audit(&tx, caller, reference, detail.clone()).await?;
            tx.event("bundle.deleted", Subject::Nothing, caller.made(detail));
            Ok(bundle_from(row)?)
        })
        .await
    }
}

/// A deleted bundle, as the answer to a repetition of its deletion.
#[derive(serde::Serialize, serde::Deserialize)]
struct StoredBundle {
    id: Stored<BundleId>,
    name: String,
    version: String,
    digest: String,
    size: i64,
    format: String,
    created_at: i64,
}

impl From<bundle::Model> for StoredBundle {
    fn from(row: bundle::Model) -> Self {
        Self {
            id: row.id,
            name: row.name,
            version: row.version,
            digest: row.digest,
            size: row.size,
            format: row.format,
            created_at: row.created_at,
        }
    }
}

impl From<StoredBundle> for bundle::Model {
    fn from(row: StoredBundle) -> Self {
        Self {
            id: row.id,
            name: row.name,
            version: row.version,
            digest: row.digest,
            size: row.size,
            format: row.format,
            manifest_json: String::new(),
            created_by: String::new(),
            created_at: row.created_at,
            unpacked_bytes: 0,
            entries: 0,
        }
    }
}

/// Who needs a bundle. The same bytes under another name serve just as well.
async fn needed_by(tx: &Tx, row: &bundle::Model) -> Result<Option<String>> {
    let query = Query::select()
        .column(("a", attempt::Column::DeploymentId))
        .from_as(attempt::Entity, "a")
        .inner_join(TableRef::from(target::Entity).alias("t"), is_of_target())
        .and_where(Expr::col(("t", target::Column::Digest)).eq(row.digest.as_str()))
        .and_where(Expr::col(("t", target::Column::BundleName)).eq(row.name.as_str()))
        .and_where(Expr::col(("t", target::Column::BundleVersion)).eq(row.version.as_str()))
        .and_where(Expr::col(("a", attempt::Column::State)).is_in(open_states()))
        .limit(1)
        .to_owned();
    if let Some(open) = tx.db.query_one(&query).await? {
        let deployment: Stored<DeploymentId> = open.try_get("", "deployment_id")?;
        return Ok(Some(format!(
            "deployment {deployment} has not finished with it"
        )));
    }
    if let Some(deployment) = may_still_deploy(&tx.db, row).await? {
        return Ok(Some(format!(
            "deployment {deployment} gives it to devices that come to match it"
        )));
    }
    let runs = device_release::Entity::find()
        .filter(device_release::Column::Name.eq(&row.name))
        .filter(
            device_release::Column::Digest
                .eq(&row.digest)
                .or(device_release::Column::PreviousDigest.eq(&row.digest)),
        )
        .one(&tx.db)
        .await?;
    if let Some(release) = runs {
        return Ok(Some(format!(
            "device {} runs it or may go back to it",
            shown_device(tx, release.device_id).await?
        )));
    }
    // A device that drifted runs it although its last outcome names another one.
    let drifted = device_drift::Entity::find()
        .filter(device_drift::Column::Name.eq(&row.name))
        .filter(device_drift::Column::ActualDigest.eq(&row.digest))
        .one(&tx.db)
        .await?;
    let Some(drift) = drifted else {
        return Ok(None);
    };
    Ok(Some(format!(
        "device {} runs it, and was to run something else",
        shown_device(tx, drift.device_id).await?
    )))
}

/// A device by its name, as people know it.
async fn shown_device(tx: &Tx, id: Stored<DeviceId>) -> Result<String> {
    let device = device::Entity::find_by_id(id).one(&tx.db).await?;
    Ok(device.map_or_else(|| id.to_string(), |device| device.name))
}
