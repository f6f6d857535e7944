//! Deployments that accept more devices, and the devices they have had.

use std::collections::{BTreeMap, BTreeSet};

use kernex_proto::ids::{DeploymentId, DeviceId};
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder,
    sea_query::{Expr, ExprTrait, Query, TableRef},
};

use crate::{
    domain::rollout::DeploymentState,
    store::{
        db::{error::Result, sizes::ID_CHUNK, transaction::Tx},
        entity::{bundle, deployment, schedule, stored::Stored, target},
        read::{schedules, selected_devices::SelectedDevice},
    },
};

/// A deployment that accepts devices, with its terms.
pub(crate) type DynamicDeployment = (deployment::Model, schedule::Model);

/// Deployments that accept devices now, newest first: where two are about one bundle name, the
/// newer one gets the device.
pub(crate) async fn accepting_devices(
    tx: &Tx,
    only: Option<DeploymentId>,
) -> Result<Vec<DynamicDeployment>> {
    let mut query = schedule::Entity::find()
        .filter(schedule::Column::Selector.is_not_null())
        .filter(schedules::is_pending());
    if let Some(only) = only {
        query = query.filter(schedule::Column::DeploymentId.eq(only.0));
    }
    let mut terms: BTreeMap<Stored<DeploymentId>, schedule::Model> = query
        .all(&tx.db)
        .await?
        .into_iter()
        .map(|row| (row.deployment_id, row))
        .collect();
    if terms.is_empty() {
        return Ok(Vec::new());
    }
    let open = [
        DeploymentState::Scheduled,
        DeploymentState::Active,
        DeploymentState::AwaitingApproval,
    ];
    let rows = deployment::Entity::find()
        .filter(deployment::Column::Id.is_in(terms.keys().copied()))
        .filter(deployment::Column::State.is_in(open.map(DeploymentState::as_str)))
        .filter(deployment::Column::CancelledAt.is_null())
        .order_by_desc(deployment::Column::CreatedAt)
        .all(&tx.db)
        .await?;
    let with_terms = |row: deployment::Model| Some((terms.remove(&row.id)?, row));
    let dynamic = rows.into_iter().filter_map(with_terms);
    Ok(dynamic.map(|(terms, row)| (row, terms)).collect())
}

/// A deployment that may still bring this bundle to further devices.
pub(crate) async fn may_still_deploy<C: ConnectionTrait>(
    db: &C,
    bundle: &bundle::Model,
) -> Result<Option<Stored<DeploymentId>>> {
    let query = Query::select()
        .column(("p", deployment::Column::Id))
        .from_as(schedule::Entity, "s")
        .inner_join(
            TableRef::from(deployment::Entity).alias("p"),
            Expr::col(("p", deployment::Column::Id)).equals(("s", schedule::Column::DeploymentId)),
        )
        .and_where(Expr::col(("s", schedule::Column::Selector)).is_not_null())
        .and_where(
            Expr::col(("p", deployment::Column::State)).ne(DeploymentState::Finished.as_str()),
        )
        .and_where(Expr::col(("p", deployment::Column::BundleName)).eq(bundle.name.as_str()))
        .and_where(Expr::col(("p", deployment::Column::BundleVersion)).eq(bundle.version.as_str()))
        .and_where(Expr::col(("p", deployment::Column::Digest)).eq(bundle.digest.as_str()))
        .limit(1)
        .to_owned();
    let found = db.query_one(&query).await?;
    Ok(found.map(|row| row.try_get("", "id")).transpose()?)
}

/// Devices that are or were part of a deployment, or of a newer one of the same bundle name.
pub(crate) async fn already_targeted(
    tx: &Tx,
    row: &deployment::Model,
    devices: &BTreeMap<Stored<DeviceId>, SelectedDevice>,
) -> Result<BTreeSet<Stored<DeviceId>>> {
    let ids: Vec<Stored<DeviceId>> = devices.keys().copied().collect();
    let mut found = BTreeSet::new();
    for chunk in ids.chunks(ID_CHUNK) {
        let newer = Expr::col(("p", deployment::Column::CreatedAt)).gt(row.created_at);
        let query = Query::select()
            .distinct()
            .column(("t", target::Column::DeviceId))
            .from_as(target::Entity, "t")
            .inner_join(
                TableRef::from(deployment::Entity).alias("p"),
                Expr::col(("p", deployment::Column::Id))
                    .equals(("t", target::Column::DeploymentId)),
            )
            .and_where(Expr::col(("t", target::Column::DeviceId)).is_in(chunk.iter().copied()))
            .and_where(Expr::col(("t", target::Column::BundleName)).eq(row.bundle_name.as_str()))
            .and_where(
                Expr::col(("p", deployment::Column::Id))
                    .eq(row.id)
                    .or(newer),
            )
            .to_owned();
        for row in tx.db.query_all(&query).await? {
            found.insert(row.try_get("", "device_id")?);
        }
    }
    Ok(found)
}
