//! Taking a deployment back: a new deployment whose targets are what each device ran before.
//!
//! Planned from rows alone, in statements whose number does not grow with the fleet, and in the transaction that commits
//! it, so that what was planned is what is done.

use std::{collections::BTreeMap, time::Duration};

use kernex_proto::ids::{DeploymentId, DeviceId};
use sea_orm::EntityTrait;
use serde_json::json;
use uuid::Uuid;

use super::{
    Caller, Result, Store, StoreError,
    chosen::Chosen,
    deployments::{CreatedDeployment, NewDeployment, cancel, created, stop},
    devices::not_found,
    entity::{bundle, deployment},
    fan_out::{insert_targets, order, supersede},
    requests::{audit, body_hash, remember, replayed},
    schedules::Terms,
    transaction::{Deciding, insert_all},
};
use crate::domain::rollout::DeploymentState;

mod plan;

pub use crate::domain::rollback::Verdict;
use plan::{Planned, plan};

/// A release that succeeded on a device once is no bundle that it failed too often.
const NO_PENALTY: u32 = 0;

/// An order to take a deployment back.
#[derive(Debug, Clone)]
pub struct NewRollback {
    /// Which one.
    pub deployment: DeploymentId,
    /// How long an attempt may wait for its device.
    pub delivery: Duration,
    /// How long an attempt may take once accepted.
    pub execution: Duration,
    /// W3C trace context of the order, empty when there is none.
    pub traceparent: String,
}

/// What a rollback does with one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The device.
    pub device: DeviceId,
    /// Its name when the deployment was made.
    pub device_name: String,
    /// What is done, or why nothing is.
    pub verdict: Verdict,
    /// "name:version" it goes back to.
    pub bundle: Option<String>,
}

/// A rollback that was committed.
#[derive(Debug, Clone, PartialEq)]
pub struct RolledBack {
    /// The new deployment.
    pub created: CreatedDeployment,
    /// Every target of the one that is taken back, by device name.
    pub steps: Vec<Step>,
    /// Devices to be told that the one that is taken back stops.
    pub stopped: Vec<DeviceId>,
}

impl Store {
    /// What a rollback would do.
    pub async fn plan_rollback(&self, id: DeploymentId) -> Result<Vec<Step>> {
        let row = deployment::Entity::find_by_id(id.0)
            .one(self.reader())
            .await?
            .ok_or_else(|| not_found("deployment", id))?;
        let planned = plan(self.reader(), &row).await?;
        Ok(planned.iter().map(step).collect())
    }

    /// Stops a deployment where it goes on, and commits one that takes it back.
    pub async fn roll_back(&self, caller: &Caller, new: NewRollback) -> Result<RolledBack> {
        let times = (
            new.delivery.as_micros().to_string(),
            new.execution.as_micros().to_string(),
        );
        let body = body_hash(&(new.deployment.0, times));
        let new = &new;
        self.decide(|tx| async move {
            let row = deployment::Entity::find_by_id(new.deployment.0)
                .one(&tx.db)
                .await?;
            let row = row.ok_or_else(|| not_found("deployment", new.deployment))?;
            if let Some(id) = replayed::<Uuid>(&tx, caller, body).await? {
                return Ok(RolledBack {
                    created: created(&tx, id).await?,
                    steps: plan(&tx.db, &row).await?.iter().map(step).collect(),
                    stopped: Vec::new(),
                });
            }
            let rolled = take_back(&tx, caller, new, &row, Cause::Operator).await?;
            remember(&tx, caller, body, &rolled.created.deployment.id.0).await?;
            Ok(rolled)
        })
        .await
    }
}

/// Why a deployment is taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// An operator wants it.
    Operator,
    /// Too many of its targets failed.
    Failure,
}

/// Commits the rollback of a deployment within a transaction.
pub(crate) async fn take_back(
    tx: &Deciding,
    caller: &Caller,
    new: &NewRollback,
    row: &deployment::Model,
    cause: Cause,
) -> Result<RolledBack> {
    // Before anything is stopped: what is at work now may have changed its device.
    let planned = plan(&tx.db, row).await?;
    let steps: Vec<Step> = planned.iter().map(step).collect();
    let going: Vec<Planned> = planned
        .into_iter()
        .filter(|planned| planned.verdict == Verdict::GoBack)
        .collect();
    if going.is_empty() {
        return Err(StoreError::NothingToRollBack(reasons(&steps)));
    }
    let stopped = if row.state == DeploymentState::Finished.as_str() {
        Vec::new()
    } else {
        match cause {
            Cause::Operator => {
                let by = json!({ "by": caller.name });
                tx.event("deployment.cancelled", None, Some(row.id), by);
                cancel(tx, row).await?
            }
            Cause::Failure => stop(tx, row, row.cancelled_at).await?,
        }
    };
    let mut returning: BTreeMap<Uuid, (bundle::Model, BTreeMap<Uuid, Chosen>)> = BTreeMap::new();
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
        created: created(tx, id).await?,
        steps,
        stopped,
    })
}

async fn commit(
    tx: &Deciding,
    caller: &Caller,
    new: &NewRollback,
    row: &deployment::Model,
    returning: &BTreeMap<Uuid, (bundle::Model, BTreeMap<Uuid, Chosen>)>,
) -> Result<Uuid> {
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
    };
    let Some((first, _)) = returning.values().next() else {
        return Err(StoreError::NoTargets);
    };
    let mut ordered = order(tx, caller, &order_of, first, None);
    ordered.rolls_back = Some(row.id);
    if returning.len() > 1 {
        // Each target says which version it is.
        (ordered.bundle_version, ordered.digest) = (String::new(), String::new());
    }
    let id = ordered.id;
    insert_all::<deployment::Entity>(&tx.db, vec![ordered.clone()], None).await?;
    let mut count = 0;
    for (bundle, devices) in returning.values() {
        let ids: Vec<Uuid> = devices.keys().copied().collect();
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
    tx.event("deployment.created", None, Some(id), detail);
    let by = json!({ "by": caller.name, "rollback": id });
    tx.event("deployment.rolled_back", None, Some(row.id), by);
    Ok(id)
}

fn step(planned: &Planned) -> Step {
    let bundle = planned.bundle.as_ref();
    Step {
        device: DeviceId(planned.target.device_id),
        device_name: planned.target.device_name.clone(),
        verdict: planned.verdict,
        bundle: bundle.map(|bundle| format!("{}:{}", bundle.name, bundle.version)),
    }
}

/// Why nothing is done, of the first few devices.
fn reasons(steps: &[Step]) -> String {
    const MOST: usize = 8;
    let mut text: Vec<String> = steps
        .iter()
        .take(MOST)
        .map(|step| format!("{}: {}", step.device_name, step.verdict.words()))
        .collect();
    if steps.len() > MOST {
        text.push(format!("and {} more", steps.len() - MOST));
    }
    text.join("; ")
}
