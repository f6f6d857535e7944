//! Deployments that go on taking in devices: whoever enrols, is labelled or tells something new about itself is matched in
//! the same transaction, so that no device falls between two looks.
//!
//! A device joins the current phase; never a deployment that is paused (it is matched again when that is resumed), and never
//! one that an order newer than it has already overtaken on that device.

use std::collections::{BTreeMap, BTreeSet};

use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect,
    sea_query::{Expr, ExprTrait, Query, TableRef},
};
use serde_json::json;
use uuid::Uuid;

use super::{
    Result,
    chosen::Chosen,
    devices::{candidates, matching},
    entity::{bundle, deployment, device, schedule},
    fan_out::{insert_targets, supersede},
    progress::finish_deployments,
    rollouts::step,
    schedules,
    transaction::{Deciding, ID_CHUNK, Tx},
};
use crate::domain::rollout::{DeploymentState, Place, rank};

/// Rows read at a time while a whole fleet is matched.
const SCAN: u64 = 1_000;

/// A deployment that takes devices in, with its terms.
type Dynamic = (deployment::Model, schedule::Model);

/// Takes devices into the deployments they have come to match.
pub(super) async fn join(tx: &Deciding, devices: &[Uuid]) -> Result<()> {
    let dynamic = taking_in(tx, None).await?;
    if dynamic.is_empty() {
        return Ok(());
    }
    for chunk in devices.chunks(ID_CHUNK) {
        let rows = device::Entity::find()
            .filter(device::Column::Id.is_in(chunk.to_vec()))
            .all(&tx.db)
            .await?;
        for dynamic in &dynamic {
            take_in(tx, dynamic, rows.clone()).await?;
        }
    }
    Ok(())
}

/// Takes every device into a deployment that came to match it while none was taken.
pub(super) async fn catch_up(tx: &Deciding, deployment: Uuid) -> Result<()> {
    let Some(dynamic) = taking_in(tx, Some(deployment)).await?.pop() else {
        return Ok(());
    };
    let Some(selector) = schedules::from_row(&dynamic.1)?.dynamic else {
        return Ok(());
    };
    let mut after = Uuid::nil();
    loop {
        let rows = candidates(&selector)
            .filter(device::Column::Id.gt(after))
            .order_by_asc(device::Column::Id)
            .limit(SCAN)
            .all(&tx.db)
            .await?;
        let Some(last) = rows.last() else {
            return Ok(());
        };
        after = last.id;
        take_in(tx, &dynamic, rows).await?;
    }
}

/// Deployments that take devices in now, the newest first: where two are about one bundle name, the newer one has it.
async fn taking_in(tx: &Tx, only: Option<Uuid>) -> Result<Vec<Dynamic>> {
    let mut query = schedule::Entity::find()
        .filter(schedule::Column::Selector.is_not_null())
        .filter(schedules::is_pending());
    if let Some(only) = only {
        query = query.filter(schedule::Column::DeploymentId.eq(only));
    }
    let mut terms: BTreeMap<Uuid, schedule::Model> = query
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

/// A deployment that may still give a bundle to devices nobody has named yet.
pub(super) async fn giving_out<C: ConnectionTrait>(
    db: &C,
    bundle: &bundle::Model,
) -> Result<Option<Uuid>> {
    let query = Query::select()
        .column(("p", "id"))
        .from_as("schedules", "s")
        .inner_join(
            TableRef::from("deployments").alias("p"),
            Expr::col(("p", "id")).equals(("s", "deployment_id")),
        )
        .and_where(Expr::col(("s", "selector")).is_not_null())
        .and_where(Expr::col(("p", "state")).ne(DeploymentState::Finished.as_str()))
        .and_where(Expr::col(("p", "bundle_name")).eq(bundle.name.as_str()))
        .and_where(Expr::col(("p", "bundle_version")).eq(bundle.version.as_str()))
        .and_where(Expr::col(("p", "digest")).eq(bundle.digest.as_str()))
        .limit(1)
        .to_owned();
    let found = db.query_one(&query).await?;
    Ok(found.map(|row| row.try_get("", "id")).transpose()?)
}

/// Those of some devices that match a deployment and have not been part of it join its current phase.
async fn take_in(tx: &Deciding, (row, terms): &Dynamic, devices: Vec<device::Model>) -> Result<()> {
    let terms = schedules::from_row(terms)?;
    let Some(selector) = &terms.dynamic else {
        return Ok(());
    };
    let mut joining: BTreeMap<Uuid, Chosen> = matching(&tx.db, selector, devices)
        .await?
        .into_iter()
        .map(|(device, _)| (device.id, device.into()))
        .collect();
    let taken = overtaken(tx, row, &joining).await?;
    joining.retain(|id, _| !taken.contains(id));
    if joining.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = joining.keys().copied().collect();
    supersede(tx, &ids, &row.bundle_name).await?;
    // The first phase opens later where none is open yet.
    let phase = if row.phase_count > 0 {
        Ord::max(u32::try_from(row.phase).unwrap_or(0), 1)
    } else {
        0
    };
    let place = |device: &Uuid| Place {
        rank: rank(row.id, *device),
        phase,
    };
    let places = ids.iter().map(|id| (*id, place(id))).collect();
    insert_targets(tx, row, terms.penalty_after, &joining, &places).await?;
    for device in joining.values() {
        let detail = json!({ "name": device.name });
        tx.event("deployment.joined", Some(device.id), Some(row.id), detail);
    }
    step(tx, row.id).await?;
    finish_deployments(tx, [row.id].into()).await
}

/// Devices that have been part of a deployment, or of a newer one of the same bundle name.
async fn overtaken(
    tx: &Tx,
    row: &deployment::Model,
    devices: &BTreeMap<Uuid, Chosen>,
) -> Result<BTreeSet<Uuid>> {
    let ids: Vec<Uuid> = devices.keys().copied().collect();
    let mut found = BTreeSet::new();
    for chunk in ids.chunks(ID_CHUNK) {
        let newer = Expr::col(("p", "created_at")).gt(row.created_at);
        let query = Query::select()
            .distinct()
            .column(("t", "device_id"))
            .from_as("targets", "t")
            .inner_join(
                TableRef::from("deployments").alias("p"),
                Expr::col(("p", "id")).equals(("t", "deployment_id")),
            )
            .and_where(Expr::col(("t", "device_id")).is_in(chunk.iter().copied()))
            .and_where(Expr::col(("t", "bundle_name")).eq(row.bundle_name.as_str()))
            .and_where(Expr::col(("p", "id")).eq(row.id).or(newer))
            .to_owned();
        for row in tx.db.query_all(&query).await? {
            found.insert(row.try_get("", "device_id")?);
        }
    }
    Ok(found)
}
