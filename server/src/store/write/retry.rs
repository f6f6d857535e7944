//! Gives failed targets a new attempt.

use std::collections::{BTreeMap, BTreeSet};

use kernex_proto::ids::{DeploymentId, DeviceId, TargetId};
use sea_orm::{
    ColumnTrait, EntityTrait, FromQueryResult, QueryFilter,
    sea_query::{Condition, Expr, ExprTrait, Query, SelectStatement, TableRef},
};
use serde_json::json;

use crate::{
    domain::{
        attempt::{Attempt, State},
        rollout::DeploymentState,
    },
    store::{
        db::{
            error::{Result, StoreError},
            sizes::{ID_CHUNK, insert_all},
            store::OperatorStore,
            transaction::Tx,
            values::{clean, unsigned},
        },
        entity::{attempt, bundle, deployment, device, phase, stored::Stored, target},
        read::{
            counts::counts_by_phase,
            deployments::{Deployment, deployment_row},
            joined::{is_latest, read_rows},
        },
        write::{
            advance::advance_deployment,
            insert_attempts::NewAttempt,
            replay::{Caller, remember, replayed},
            steer::{record_change, steered, wrong_state},
        },
    },
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retried {
    pub deployment: Deployment,
    /// Targets that got a new attempt.
    pub retried: u32,
    /// Failed targets that got none: their device was deleted, or a newer deployment of the bundle
    /// name has reached it.
    pub left_out: u32,
    /// Devices that have to be woken.
    pub devices: Vec<DeviceId>,
}

/// A target whose latest attempt failed or expired.
#[derive(FromQueryResult)]
struct Failed {
    target_id: Stored<TargetId>,
    number: i32,
    device_id: Stored<DeviceId>,
    bundle_name: String,
    generation: i64,
    /// `None` when the device was deleted.
    here: Option<Stored<DeviceId>>,
    /// Newest generation that was ordered for the device under the bundle's name.
    newest: Option<i64>,
}

impl OperatorStore {
    /// Gives failed and expired targets a new attempt. When `devices` names some, by name or id,
    /// only theirs.
    pub async fn retry_deployment(
        &self,
        caller: &Caller,
        id: DeploymentId,
        devices: &[String],
    ) -> Result<Retried> {
        let db = &self.0;
        db.decide(|tx| async move {
            if let Some((retried, left_out)) = replayed::<(u32, u32)>(&tx, caller).await? {
                return retried_as(&tx, id, retried, left_out).await;
            }
            let row = deployment_row(&tx.db, caller.scope, id).await?;
            may_retry(&tx, id, &row).await?;
            let only = named_devices(&tx, id, devices).await?;
            let (again, left_out) = retryable_targets(&tx, Stored(id), only.as_ref()).await?;
            if again.is_empty() {
                let why = match left_out {
                    0 => "has no target that failed",
                    _ => "has failed targets only whose device was deleted or has got a newer deployment",
                };
                return Err(wrong_state(id, why));
            }
            let retried = again.len() as u32;
            insert_attempts(&tx, &row, again).await?;
            reopen(&tx, &row).await?;
            no_more_forgiven_than_failed(&tx, id).await?;
            advance_deployment(&tx, id).await?;
            let detail = json!({ "targets": retried, "left_out": left_out });
            record_change(&tx, caller, id, "deployment.retried", detail).await?;
            remember(&tx, caller, &(retried, left_out)).await?;
            retried_as(&tx, id, retried, left_out).await
        })
        .await
    }
}

async fn retried_as(tx: &Tx, id: DeploymentId, retried: u32, left_out: u32) -> Result<Retried> {
    let (deployment, devices) = steered(tx, id).await?;
    Ok(Retried {
        deployment,
        retried,
        left_out,
        devices,
    })
}

async fn may_retry(tx: &Tx, id: DeploymentId, row: &deployment::Model) -> Result<()> {
    if row.cancelled_at.is_some() {
        return Err(wrong_state(id, "was cancelled"));
    }
    let bundle = bundle::Entity::find()
        .filter(bundle::Column::Name.eq(row.bundle_name.clone()))
        .filter(bundle::Column::Version.eq(row.bundle_version.clone()))
        .filter(bundle::Column::Digest.eq(row.digest.clone()))
        .one(&tx.db)
        .await?;
    match bundle {
        Some(_) => Ok(()),
        None => Err(wrong_state(id, "is about a bundle that was deleted")),
    }
}

/// The devices that the caller named; `None` for all.
async fn named_devices(
    tx: &Tx,
    id: DeploymentId,
    devices: &[String],
) -> Result<Option<BTreeSet<Stored<DeviceId>>>> {
    if devices.is_empty() {
        return Ok(None);
    }
    let mut found = BTreeSet::new();
    let mut missing: BTreeSet<&str> = devices.iter().map(String::as_str).collect();
    for chunk in devices.chunks(ID_CHUNK) {
        let ids = chunk
            .iter()
            .filter_map(|text| text.parse().ok())
            .map(Stored::<DeviceId>);
        let named = Condition::any()
            .add(target::Column::DeviceName.is_in(chunk.iter().map(|text| clean(text))))
            .add(target::Column::DeviceId.is_in(ids));
        let rows = target::Entity::find()
            .filter(target::Column::DeploymentId.eq(id.0))
            .filter(named)
            .all(&tx.db)
            .await?;
        for row in rows {
            missing.remove(row.device_name.as_str());
            missing.remove(row.device_id.to_string().as_str());
            found.insert(row.device_id);
        }
    }
    match missing.first() {
        Some(missing) => Err(StoreError::Invalid {
            field: "devices",
            why: format!("`{missing}` is not part of this deployment"),
        }),
        None => Ok(Some(found)),
    }
}

/// The failed targets that can be tried again, and how many cannot.
async fn retryable_targets(
    tx: &Tx,
    deployment: Stored<DeploymentId>,
    only: Option<&BTreeSet<Stored<DeviceId>>>,
) -> Result<(Vec<Failed>, u32)> {
    let mut again = Vec::new();
    let mut left_out = 0;
    for row in read_rows::<Failed, _>(&tx.db, &failed_targets(deployment)).await? {
        if only.is_some_and(|only| !only.contains(&row.device_id)) {
            continue;
        }
        let superseded = row.newest.is_some_and(|newest| newest > row.generation);
        if row.here.is_none() || superseded {
            left_out += 1;
        } else {
            again.push(row);
        }
    }
    Ok((again, left_out))
}

fn failed_targets(deployment: Stored<DeploymentId>) -> SelectStatement {
    let newest = Query::select()
        .expr(Expr::col(("n", attempt::Column::Generation)).max())
        .from_as(attempt::Entity, "n")
        .and_where(
            Expr::col(("n", attempt::Column::DeviceId)).equals(("a", attempt::Column::DeviceId)),
        )
        .and_where(
            Expr::col(("n", attempt::Column::BundleName))
                .equals(("a", attempt::Column::BundleName)),
        )
        .to_owned();
    let mut query = Query::select();
    for column in [
        attempt::Column::TargetId,
        attempt::Column::Number,
        attempt::Column::DeviceId,
        attempt::Column::BundleName,
        attempt::Column::Generation,
    ] {
        query.column(("a", column));
    }
    query
        .expr_as(Expr::col(("d", device::Column::Id)), "here")
        .expr_as(newest, "newest")
        .from_as(attempt::Entity, "a")
        .inner_join(TableRef::from(target::Entity).alias("t"), is_latest())
        .left_join(
            TableRef::from(device::Entity).alias("d"),
            Expr::col(("d", device::Column::Id)).equals(("a", attempt::Column::DeviceId)),
        )
        .and_where(Expr::col(("a", attempt::Column::DeploymentId)).eq(deployment))
        .and_where(
            Expr::col(("a", attempt::Column::State))
                .is_in([State::Failed.as_str(), State::Expired.as_str()]),
        );
    query
}

/// Inserts the next attempt of each target. The queue of a device lets it wait until the agent has
/// resolved the one before.
async fn insert_attempts(tx: &Tx, row: &deployment::Model, again: Vec<Failed>) -> Result<()> {
    let execution = std::time::Duration::from_micros(unsigned(row.execution_us));
    let facts = if row.phase_count > 0 {
        Attempt::held(execution)
    } else {
        let deadline = crate::clock::Timestamp(tx.now.0.saturating_add(row.delivery_us));
        Attempt::new(State::Pending, deadline, execution)
    };
    let targets: Vec<Stored<TargetId>> = again.iter().map(|failed| failed.target_id).collect();
    for chunk in targets.chunks(ID_CHUNK) {
        target::Entity::update_many()
            .col_expr(
                target::Column::LatestAttempt,
                Expr::col(target::Column::LatestAttempt).add(1),
            )
            .filter(target::Column::Id.is_in(chunk.iter().copied()))
            .exec(&tx.db)
            .await?;
    }
    let rows = again.iter().map(|failed| {
        NewAttempt {
            target: failed.target_id.0,
            number: failed.number + 1,
            deployment: row.id.0,
            device: failed.device_id.0,
            bundle_name: &failed.bundle_name,
            generation: failed.generation,
            facts: facts.clone(),
        }
        .into_row(tx.now)
    });
    insert_all::<attempt::Entity>(&tx.db, rows.collect(), None).await?;
    Ok(())
}

/// Has a finished deployment go on. A paused one stays paused until it is resumed.
async fn reopen(tx: &Tx, row: &deployment::Model) -> Result<()> {
    let finished = row.state == DeploymentState::Finished.as_str();
    let state = if finished {
        DeploymentState::Active.as_str()
    } else {
        row.state.as_str()
    };
    deployment::Entity::update_many()
        .col_expr(deployment::Column::State, Expr::value(state))
        .col_expr(deployment::Column::Result, Expr::value(None::<String>))
        .col_expr(deployment::Column::FinishedAt, Expr::value(None::<i64>))
        .col_expr(deployment::Column::EndedReason, Expr::value(""))
        .col_expr(deployment::Column::Revision, Expr::value(row.revision + 1))
        .filter(deployment::Column::Id.eq(row.id))
        .exec(&tx.db)
        .await?;
    tx.touch();
    Ok(())
}

/// Failures that are tried again count again, so no more of them are forgiven than are left.
async fn no_more_forgiven_than_failed(tx: &Tx, id: DeploymentId) -> Result<()> {
    let counts = counts_by_phase(&tx.db, &[Stored(id)])
        .await?
        .remove(&Stored(id));
    let failed: BTreeMap<i32, i64> = counts
        .unwrap_or_default()
        .into_iter()
        .map(|(number, counts)| (number, i64::from(counts.failed + counts.expired)))
        .collect();
    for (number, failed) in failed {
        phase::Entity::update_many()
            .col_expr(phase::Column::Forgiven, Expr::value(failed))
            .filter(phase::Column::DeploymentId.eq(id.0))
            .filter(phase::Column::Number.eq(number))
            .filter(Expr::col(phase::Column::Forgiven).gt(failed))
            .exec(&tx.db)
            .await?;
    }
    Ok(())
}
