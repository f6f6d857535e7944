//! Rolls a deployment back: a new deployment returns each device to what it ran before.
//!
//! It is planned from rows alone, in the transaction that commits it, so what was planned is what
//! is done. The number of statements does not grow with the fleet.

use std::{collections::BTreeMap, time::Duration};

use kernex_proto::ids::{DeploymentId, DeviceId};
use sea_orm::{
    ColumnTrait, EntityTrait, QueryFilter,
    sea_query::{Expr, ExprTrait},
};
use serde_json::json;

use crate::{
    domain::{rollback::RollbackVerdict, rollout::DeploymentState},
    store::{
        db::{
            error::{Result, StoreError},
            new_event::Subject,
            sizes::insert_all,
            transaction::Deciding,
        },
        entity::{
            bundle, deployment,
            stored::{BundleId, Stored},
        },
        read::{
            deployments::{CreatedDeployment, created_deployment},
            new_deployment::{NewDeployment, Terms},
            rollback_plan::{PlannedTarget, RollbackTarget, plan, rollback_target},
            selected_devices::SelectedDevice,
        },
        write::{
            audit::audit,
            insert_targets::{deployment_of, insert_targets},
            replay::Caller,
            stop::{cancel, stop},
            supersede::supersede,
        },
    },
};

/// A release that succeeded on a device once is never left out because it failed there too often.
const NO_PENALTY: u32 = 0;

/// The bundles to return to, each with its devices.
type Returning =
    BTreeMap<Stored<BundleId>, (bundle::Model, BTreeMap<Stored<DeviceId>, SelectedDevice>)>;

/// An order to roll a deployment back.
#[derive(Debug, Clone)]
pub struct NewRollback {
    /// The deployment to roll back.
    pub deployment: DeploymentId,
    /// How long an attempt may wait for its device to accept it.
    pub delivery: Duration,
    /// How long an attempt may take once accepted.
    pub execution: Duration,
    /// W3C trace context of the order, empty when there is none.
    pub traceparent: String,
    /// The note of the operator.
    pub message: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct RolledBack {
    pub created: CreatedDeployment,
    /// Each target of the deployment that is rolled back, by device name.
    pub steps: Vec<RollbackTarget>,
    /// Devices that have to be told to stop that deployment.
    pub stopped: Vec<DeviceId>,
}

/// Why a deployment is rolled back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RollbackCause {
    Operator,
    /// Too many of its targets failed.
    Failure,
}

/// Commits the rollback of a deployment within a transaction.
pub(crate) async fn insert_rollback(
    tx: &Deciding,
    caller: &Caller,
    new: &NewRollback,
    row: &deployment::Model,
    cause: RollbackCause,
) -> Result<RolledBack> {
    // Planned before anything is stopped, because an attempt that runs now may have changed its
    // device.
    let planned = plan(&tx.db, row).await?;
    let steps: Vec<RollbackTarget> = planned.iter().map(rollback_target).collect();
    let going: Vec<PlannedTarget> = planned
        .into_iter()
        .filter(|planned| planned.verdict == RollbackVerdict::GoBack)
        .collect();
    if going.is_empty() {
        return Err(StoreError::NothingToRollBack(reasons(&steps)));
    }
    let stopped = if row.state == DeploymentState::Finished.as_str() {
        Vec::new()
    } else {
        match cause {
            RollbackCause::Operator => {
                let by = caller.made(json!({}));
                tx.event("deployment.cancelled", Subject::Deployment(row.id.0), by);
                cancel(tx, row).await?
            }
            RollbackCause::Failure => stop(tx, row, row.cancelled_at).await?,
        }
    };
    let mut returning = Returning::new();
    for planned in going {
        if let (Some(device), Some(bundle)) = (planned.device, planned.bundle) {
            let (_, devices) = returning
                .entry(bundle.id)
                .or_insert_with(|| (bundle, BTreeMap::new()));
            devices.insert(device.id, device.into());
        }
    }
    let id = commit(tx, caller, new, row, &returning).await?;
    Ok(RolledBack {
        created: created_deployment(tx, id).await?,
        steps,
        stopped,
    })
}

async fn commit(
    tx: &Deciding,
    caller: &Caller,
    new: &NewRollback,
    row: &deployment::Model,
    returning: &Returning,
) -> Result<DeploymentId> {
    let order_of = NewDeployment {
        bundle: String::new(),
        device_ids: Vec::new(),
        device_names: Vec::new(),
        selector: None,
        delivery: new.delivery,
        execution: new.execution,
        traceparent: new.traceparent.clone(),
        rollout: None,
        terms: Terms::default(),
        message: new.message.clone(),
    };
    let Some((first, _)) = returning.values().next() else {
        return Err(StoreError::NoTargets);
    };
    let mut ordered = deployment_of(tx, caller, &order_of, first, None);
    ordered.rolls_back = Some(row.id);
    if returning.len() > 1 {
        // Each target names its own version.
        (ordered.bundle_version, ordered.digest) = (String::new(), String::new());
    }
    let id = ordered.id.0;
    insert_all::<deployment::Entity>(&tx.db, vec![ordered.clone()], None).await?;
    let mut count = 0;
    for (bundle, devices) in returning.values() {
        let ids: Vec<Stored<DeviceId>> = devices.keys().copied().collect();
        supersede(tx, &ids, &bundle.name).await?;
        let theirs = deployment::Model {
            bundle_version: bundle.version.clone(),
            digest: bundle.digest.clone(),
            ..ordered.clone()
        };
        insert_targets(tx, &theirs, NO_PENALTY, devices, &BTreeMap::new()).await?;
        count += devices.len();
    }
    let detail = json!({ "bundle": row.bundle_name, "devices": count, "rolls_back": row.id });
    audit(tx, caller, id, detail.clone()).await?;
    tx.event(
        "deployment.created",
        Subject::Deployment(id),
        caller.made(detail),
    );
    deployment::Entity::update_many()
        .col_expr(deployment::Column::RolledBackBy, Expr::value(Stored(id)))
        .col_expr(
            deployment::Column::Revision,
            Expr::col(deployment::Column::Revision).add(1),
        )
        .filter(deployment::Column::Id.eq(row.id))
        .exec(&tx.db)
        .await?;
    let by = caller.made(json!({ "rollback": id.0 }));
    tx.event("deployment.rolled_back", Subject::Deployment(row.id.0), by);
    Ok(id)
}

/// Why no device can go back: each reason with the first few of its devices.
fn reasons(steps: &[RollbackTarget]) -> String {
    const MOST: usize = 8;
    let mut verdicts: Vec<(RollbackVerdict, Vec<&str>)> = Vec::new();
    for step in steps {
        match verdicts
            .iter_mut()
            .find(|(verdict, _)| *verdict == step.verdict)
        {
            Some((_, devices)) => devices.push(&step.device_name),
            None => verdicts.push((step.verdict, vec![&step.device_name])),
        }
    }
    let texts = verdicts.into_iter().map(|(verdict, devices)| {
        let mut names = devices[..devices.len().min(MOST)].join(", ");
        if devices.len() > MOST {
            names.push_str(&format!(" and {} more", devices.len() - MOST));
        }
        format!("{names}: {}", verdict.words())
    });
    texts.collect::<Vec<_>>().join("; ")
}
