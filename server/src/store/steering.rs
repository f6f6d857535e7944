//! An operator's hand on a deployment that goes on: pause, resume, promote, retry, and who has answered a halt.

use std::collections::{BTreeMap, BTreeSet};

use kernex_proto::ids::{DeploymentId, DeviceId};
use sea_orm::{
    ColumnTrait, EntityTrait, QueryFilter,
    sea_query::{Expr, ExprTrait},
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    Caller, Result, Store, StoreError,
    deployments::{Deployment, devices_of, find, find_row},
    devices::clean,
    dynamic::catch_up,
    entity::{deployment, phase},
    progress::counts_by_phase,
    requests::{audit, body_hash, remember, replayed},
    rollouts::{Change, open_phase, step},
    schedules,
    transaction::Tx,
};
use crate::domain::rollout::DeploymentState;

mod halting;
mod retrying;

pub use halting::{Halt, Halted};
pub use retrying::Retried;

/// A deployment after an order about it, and the devices to tell.
pub type Steered = (Deployment, Vec<DeviceId>);

/// What is wrong with an order, as the rest of a sentence about the deployment.
fn wrong_state(id: DeploymentId, why: impl Into<String>) -> StoreError {
    StoreError::WrongState {
        kind: "deployment",
        id: id.to_string(),
        why: why.into(),
    }
}

impl Store {
    /// Begins nothing more.
    pub async fn pause_deployment(
        &self,
        caller: &Caller,
        id: DeploymentId,
        reason: &str,
    ) -> Result<Deployment> {
        let body = body_hash(&(id.0, reason));
        self.decide(|tx| async move {
            if replayed::<Uuid>(&tx, caller, body).await?.is_some() {
                return find(&tx.db, id.0).await;
            }
            let row = find_row(&tx.db, id.0).await?;
            let mut change = Change::of(&row)?;
            match change.state {
                DeploymentState::Scheduled
                | DeploymentState::Active
                | DeploymentState::AwaitingApproval => {}
                DeploymentState::Paused => return Err(wrong_state(id, "is paused already")),
                DeploymentState::Stopping => return Err(wrong_state(id, "was cancelled")),
                DeploymentState::Finished => return Err(StoreError::Finished),
            }
            change.state = DeploymentState::Paused;
            change.paused_reason = match clean(reason.trim()) {
                reason if reason.is_empty() => format!("by {}", caller.name),
                reason => reason,
            };
            change.write(&tx, &row).await?;
            let detail = json!({ "by": caller.name, "reason": change.paused_reason });
            record(&tx, caller, id, "deployment.paused", detail).await?;
            remember(&tx, caller, body, &id.0).await?;
            find(&tx.db, id.0).await
        })
        .await
    }

    /// Goes on after a pause; the failures up to now are borne.
    pub async fn resume_deployment(&self, caller: &Caller, id: DeploymentId) -> Result<Steered> {
        let body = body_hash(&id.0);
        self.decide(|tx| async move {
            if replayed::<Uuid>(&tx, caller, body).await?.is_some() {
                return steered(&tx, id).await;
            }
            let row = find_row(&tx.db, id.0).await?;
            let mut change = Change::of(&row)?;
            match change.state {
                DeploymentState::Paused => {}
                DeploymentState::Finished => return Err(StoreError::Finished),
                other => return Err(wrong_state(id, format!("is not paused but {other}"))),
            }
            forgive(&tx, id.0, change.phase).await?;
            go_on(&mut change);
            if schedules::waits(&tx, id.0).await? {
                change.state = DeploymentState::Scheduled;
            }
            change.write(&tx, &row).await?;
            step(&tx, id.0).await?;
            catch_up(&tx, id.0).await?;
            let detail = json!({ "by": caller.name });
            record(&tx, caller, id, "deployment.resumed", detail).await?;
            remember(&tx, caller, body, &id.0).await?;
            steered(&tx, id).await
        })
        .await
    }

    /// Opens the next phase now, `wanted` when that is said; the failures up to now are borne.
    pub async fn promote_deployment(
        &self,
        caller: &Caller,
        id: DeploymentId,
        wanted: Option<u32>,
    ) -> Result<Steered> {
        let body = body_hash(&(id.0, wanted));
        self.decide(|tx| async move {
            if replayed::<Uuid>(&tx, caller, body).await?.is_some() {
                return steered(&tx, id).await;
            }
            let row = find_row(&tx.db, id.0).await?;
            let mut change = Change::of(&row)?;
            let next = next_phase(id, &row, &change, wanted)?;
            forgive(&tx, id.0, change.phase).await?;
            open_phase(&tx, id.0, next).await?;
            change.phase = next;
            go_on(&mut change);
            change.write(&tx, &row).await?;
            step(&tx, id.0).await?;
            catch_up(&tx, id.0).await?;
            let detail = json!({ "by": caller.name, "phase": next });
            record(&tx, caller, id, "deployment.promoted", detail).await?;
            remember(&tx, caller, body, &id.0).await?;
            steered(&tx, id).await
        })
        .await
    }
}

/// The phase that a promotion opens.
fn next_phase(
    id: DeploymentId,
    row: &deployment::Model,
    now: &Change,
    wanted: Option<u32>,
) -> Result<u32> {
    let last = u32::try_from(row.phase_count).unwrap_or(0);
    if last == 0 {
        return Err(wrong_state(
            id,
            "has no phases: every target was released when it was made",
        ));
    }
    if wanted.is_some_and(|wanted| wanted > last) {
        return Err(StoreError::Invalid {
            field: "phase",
            why: format!("there is no such phase; the last one is {last}"),
        });
    }
    match now.state {
        DeploymentState::Active | DeploymentState::Paused | DeploymentState::AwaitingApproval => {}
        DeploymentState::Scheduled => return Err(wrong_state(id, "waits for its start")),
        DeploymentState::Stopping => return Err(wrong_state(id, "was cancelled")),
        DeploymentState::Finished => return Err(StoreError::Finished),
    }
    let next = now.phase + 1;
    if next > last {
        return Err(wrong_state(id, "has its last phase open"));
    }
    match wanted {
        Some(wanted) if wanted < next => {
            Err(wrong_state(id, format!("has phase {wanted} open already")))
        }
        Some(wanted) if wanted > next => {
            let why = format!("opens phase {next} next, and phase {wanted} only after it");
            Err(wrong_state(id, why))
        }
        _ => Ok(next),
    }
}

fn go_on(change: &mut Change) {
    change.state = DeploymentState::Active;
    change.paused_reason.clear();
}

/// Failures of the open phases that an operator has seen count for nothing any more.
async fn forgive(tx: &Tx, id: Uuid, open: u32) -> Result<()> {
    let counts = counts_by_phase(&tx.db, &[id]).await?.remove(&id);
    for (number, counts) in counts.unwrap_or_default() {
        let failed = counts.failed + counts.expired;
        if failed == 0 || number == 0 || number > open as i32 {
            continue;
        }
        phase::Entity::update_many()
            .col_expr(phase::Column::Forgiven, Expr::value(i64::from(failed)))
            .filter(phase::Column::DeploymentId.eq(id))
            .filter(phase::Column::Number.eq(number))
            .exec(&tx.db)
            .await?;
    }
    Ok(())
}

/// Failures that are tried again are judged again.
async fn no_more_forgiven_than_failed(tx: &Tx, id: Uuid) -> Result<()> {
    let counts = counts_by_phase(&tx.db, &[id]).await?.remove(&id);
    let failed: BTreeMap<i32, i64> = counts
        .unwrap_or_default()
        .into_iter()
        .map(|(number, counts)| (number, i64::from(counts.failed + counts.expired)))
        .collect();
    for (number, failed) in failed {
        phase::Entity::update_many()
            .col_expr(phase::Column::Forgiven, Expr::value(failed))
            .filter(phase::Column::DeploymentId.eq(id))
            .filter(phase::Column::Number.eq(number))
            .filter(Expr::col(phase::Column::Forgiven).gt(failed))
            .exec(&tx.db)
            .await?;
    }
    Ok(())
}

/// The record of an order, for the audit and for those who watch.
async fn record(
    tx: &Tx,
    caller: &Caller,
    id: DeploymentId,
    kind: &'static str,
    detail: Value,
) -> Result<()> {
    audit(tx, caller, id, detail.clone()).await?;
    tx.event(kind, None, Some(id.0), detail);
    Ok(())
}

async fn steered(tx: &Tx, id: DeploymentId) -> Result<Steered> {
    Ok((find(&tx.db, id.0).await?, devices_of(tx, id.0).await?))
}
