//! Deployments: created in one transaction with a target and an attempt per device, derived from them ever after.

use std::time::Duration;

use kernex_proto::ids::{DeploymentId, DeviceId, Digest};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect,
    sea_query::Expr,
};
use serde_json::json;
use uuid::Uuid;

use super::{
    Caller, Page, Paged, Result, Store, StoreError,
    attempts::{Batch, is_unresolved, named, unsigned},
    devices::{digest, not_found},
    dispatch::DueCommand,
    entity::{attempt, deployment, phase, schedule, target},
    fan_out::fan_out,
    phases::{phases, rollout, statuses},
    progress::{PhaseCounts, all_phases, counts_by_phase, finish_deployments},
    requests::{audit, body_hash, remember, replayed},
    rollouts::step,
    schedules::{self, Terms},
    transaction::{Deciding, Tx},
};
use crate::{
    clock::Timestamp,
    crash::Act,
    domain::{
        attempt::{Closing, State},
        schedule::Schedule,
        selector::Selector,
    },
};

pub use super::{
    phases::PhaseStatus,
    targets::{Progress, Target},
};
pub use crate::domain::rollout::{Counts, DeploymentResult, DeploymentState, Rollout};

/// An order.
#[derive(Debug, Clone)]
pub struct NewDeployment {
    /// "name:version" or digest.
    pub bundle: String,
    /// Devices by id.
    pub device_ids: Vec<DeviceId>,
    /// Devices by name.
    pub device_names: Vec<String>,
    /// Devices by label; none selects none.
    pub selector: Option<Selector>,
    /// How long an attempt may wait for its device.
    pub delivery: Duration,
    /// How long an attempt may take once accepted.
    pub execution: Duration,
    /// W3C trace context of the order, empty when there is none.
    pub traceparent: String,
    /// How to proceed; none releases every target at once.
    pub rollout: Option<Rollout>,
    /// When its targets may begin, and which devices it goes on taking in.
    pub terms: Terms,
}

/// An order that was committed.
#[derive(Debug, Clone, PartialEq)]
pub struct CreatedDeployment {
    /// The deployment.
    pub deployment: Deployment,
    /// The devices to be told.
    pub devices: Vec<DeviceId>,
    /// Those of its commands that wait for nothing, as [`Store::due_commands`] would give them.
    pub due: Vec<DueCommand>,
}

/// An operator's order and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployment {
    /// Its id.
    pub id: DeploymentId,
    /// "name:version"; only the name when a rollback returns devices to different versions.
    pub bundle: String,
    /// SHA-256 of the bundle; none when a rollback returns devices to different versions.
    pub digest: Option<Digest>,
    /// Where it stands.
    pub state: DeploymentState,
    /// How it ended.
    pub result: Option<DeploymentResult>,
    /// Why it is paused, empty otherwise.
    pub paused_reason: String,
    /// Derived from the targets.
    pub counts: Counts,
    /// Who made it.
    pub created_by: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it finished.
    pub finished_at: Option<Timestamp>,
    /// Grows by one with each change of the deployment itself.
    pub revision: u64,
    /// How it proceeds; none when every target was released at once.
    pub rollout: Option<Rollout>,
    /// Where its phases stand.
    pub phases: Vec<PhaseStatus>,
    /// Number of the newest open phase; 0 before the first and without phases.
    pub phase: u32,
    /// The deployment this one takes back.
    pub rolls_back: Option<DeploymentId>,
    /// When its targets may begin; none when nothing delays them.
    pub schedule: Option<Schedule>,
    /// When they may begin next; none while they may.
    pub opens_at: Option<Timestamp>,
    /// Devices that come to match this are taken in.
    pub dynamic: Option<Selector>,
}

impl Deployment {
    fn seen_at(mut self, now: Timestamp) -> Self {
        let waits = self.state != DeploymentState::Finished;
        let schedule = self.schedule.as_ref().filter(|_| waits);
        self.opens_at = schedule.and_then(|schedule| schedule.opens_at(now));
        self
    }
}

impl Store {
    /// Commits a deployment. The same request id gives the same deployment again, with its devices.
    pub async fn create_deployment(
        &self,
        caller: &Caller,
        new: NewDeployment,
    ) -> Result<CreatedDeployment> {
        let selector = new.selector.as_ref().map(ToString::to_string);
        let ids: Vec<Uuid> = new.device_ids.iter().map(|id| id.0).collect();
        let times = (
            new.delivery.as_micros().to_string(),
            new.execution.as_micros().to_string(),
        );
        let rollout = new.rollout.as_ref().map(|rollout| format!("{rollout:?}"));
        let body = body_hash(&(
            &new.bundle,
            &ids,
            &new.device_names,
            selector,
            times,
            rollout,
            new.terms.fingerprint(),
        ));
        let new = &new;
        let mut created = self
            .decide_as(Act::CommitDeployment, |tx| async move {
                if let Some(id) = replayed::<Uuid>(&tx, caller, body).await? {
                    return created(&tx, id).await;
                }
                let created = fan_out(&tx, caller, new).await?;
                remember(&tx, caller, body, &created.deployment.id.0).await?;
                Ok(created)
            })
            .await?;
        created.deployment = created.deployment.seen_at(self.now());
        Ok(created)
    }

    /// One deployment.
    pub async fn get_deployment(&self, id: DeploymentId) -> Result<Deployment> {
        Ok(find(self.reader(), id.0).await?.seen_at(self.now()))
    }

    /// Deployments, newest first.
    pub async fn list_deployments(&self, page: Page) -> Result<Paged<Deployment>> {
        let mut query = deployment::Entity::find()
            .order_by_desc(deployment::Column::Id)
            .limit(page.limit() + 1);
        if let Some(after) = page.after_id("deployments")? {
            query = query.filter(deployment::Column::Id.lt(after));
        }
        let rows = query.all(self.reader()).await?;
        let paged = Paged::from_surplus(rows, page.limit(), "deployments", |row| {
            row.id.as_bytes().to_vec()
        });
        let ids: Vec<Uuid> = paged.items.iter().map(|row| row.id).collect();
        let mut counts = counts_by_phase(self.reader(), &ids).await?;
        let mut phases = phases(self.reader(), &ids).await?;
        let mut schedules = schedules::rows_of(self.reader(), &ids).await?;
        let now = self.now();
        let whole = paged.items.into_iter().map(|row| {
            let counts = counts.remove(&row.id).unwrap_or_default();
            let phases = phases.remove(&row.id).unwrap_or_default();
            let schedule = schedules.remove(&row.id);
            Ok(deployment_from(row, &phases, &counts, schedule.as_ref())?.seen_at(now))
        });
        Ok(Paged {
            items: whole.collect::<Result<_>>()?,
            next: paged.next,
        })
    }

    /// Stops a deployment: what has not been pushed is cancelled, the rest is asked to stop. Also gives the devices to
    /// tell.
    pub async fn cancel_deployment(
        &self,
        caller: &Caller,
        id: DeploymentId,
    ) -> Result<(Deployment, Vec<DeviceId>)> {
        let body = body_hash(&id.0);
        self.decide_as(Act::CommitCancel, |tx| async move {
            if replayed::<Uuid>(&tx, caller, body).await?.is_some() {
                return Ok((find(&tx.db, id.0).await?, devices_of(&tx, id.0).await?));
            }
            let row = find_row(&tx.db, id.0).await?;
            if row.state == DeploymentState::Finished.as_str() {
                return Err(StoreError::Finished);
            }
            let devices = cancel(&tx, &row).await?;
            remember(&tx, caller, body, &id.0).await?;
            audit(&tx, caller, id, json!({ "devices": devices.len() })).await?;
            tx.event(
                "deployment.cancelled",
                None,
                Some(id.0),
                json!({ "by": caller.name }),
            );
            Ok((find(&tx.db, id.0).await?, devices))
        })
        .await
    }
}

/// Stops a deployment that is not finished, because an operator wants it; gives the devices to tell.
pub(crate) async fn cancel(tx: &Deciding, row: &deployment::Model) -> Result<Vec<DeviceId>> {
    stop(tx, row, Some(row.cancelled_at.unwrap_or(tx.now.0))).await
}

/// The same, and what goes back by now ends as well.
pub(crate) async fn halt(tx: &Deciding, row: &deployment::Model) -> Result<Vec<DeviceId>> {
    let cancelled_at = Some(row.cancelled_at.unwrap_or(tx.now.0));
    stop_as(tx, row, cancelled_at, Closing::Halt).await
}

/// Like [`cancel`]; without a `cancelled_at` its targets say how it ended.
pub(crate) async fn stop(
    tx: &Deciding,
    row: &deployment::Model,
    cancelled_at: Option<i64>,
) -> Result<Vec<DeviceId>> {
    stop_as(tx, row, cancelled_at, Closing::Cancel).await
}

async fn stop_as(
    tx: &Deciding,
    row: &deployment::Model,
    cancelled_at: Option<i64>,
    how: Closing,
) -> Result<Vec<DeviceId>> {
    deployment::Entity::update_many()
        .col_expr(
            deployment::Column::State,
            Expr::value(DeploymentState::Stopping.as_str()),
        )
        .col_expr(deployment::Column::CancelledAt, Expr::value(cancelled_at))
        .col_expr(deployment::Column::Revision, Expr::value(row.revision + 1))
        .filter(deployment::Column::Id.eq(row.id))
        .exec(&tx.db)
        .await?;
    let (devices, _) = stop_attempts(tx, row.id, how).await?;
    // Those that had not begun may have been all there was.
    step(tx, row.id).await?;
    finish_deployments(tx, [row.id].into()).await?;
    Ok(devices)
}

/// Tells what is not resolved of a deployment to stop; gives the devices to tell, and how many attempts it was news for.
pub(crate) async fn stop_attempts(
    tx: &Deciding,
    deployment: Uuid,
    how: Closing,
) -> Result<(Vec<DeviceId>, u64)> {
    let mut batch = Batch::deciding(tx);
    let unresolved = Condition::all()
        .add(attempt::Column::DeploymentId.eq(deployment))
        .add(is_unresolved());
    batch.load(unresolved, None).await?;
    let mut devices = Vec::with_capacity(batch.len());
    for (_, entry) in batch.iter_mut() {
        let _ = entry.close(tx, how, tx.now);
        devices.push(DeviceId(entry.row.device_id));
    }
    Ok((devices, batch.save().await?))
}

pub(crate) async fn created(tx: &Tx, id: Uuid) -> Result<CreatedDeployment> {
    Ok(CreatedDeployment {
        deployment: find(&tx.db, id).await?,
        devices: devices_of(tx, id).await?,
        due: Vec::new(),
    })
}

/// Every device of a deployment.
pub(crate) async fn devices_of(tx: &Tx, deployment: Uuid) -> Result<Vec<DeviceId>> {
    let ids = target::Entity::find()
        .select_only()
        .column(target::Column::DeviceId)
        .filter(target::Column::DeploymentId.eq(deployment))
        .into_tuple::<Uuid>()
        .all(&tx.db)
        .await?;
    Ok(ids.into_iter().map(DeviceId).collect())
}

/// A deployment's row.
pub(crate) async fn find_row<C: ConnectionTrait>(db: &C, id: Uuid) -> Result<deployment::Model> {
    let row = deployment::Entity::find_by_id(id).one(db).await?;
    row.ok_or_else(|| not_found("deployment", id))
}

/// A deployment as it stands.
pub(crate) async fn find<C: ConnectionTrait>(db: &C, id: Uuid) -> Result<Deployment> {
    let row = find_row(db, id).await?;
    let counts = counts_by_phase(db, &[id]).await?.remove(&id);
    let phases = if row.phase_count == 0 {
        Vec::new()
    } else {
        phases(db, &[id]).await?.remove(&id).unwrap_or_default()
    };
    let schedule = schedules::find(db, id).await?;
    deployment_from(row, &phases, &counts.unwrap_or_default(), schedule.as_ref())
}

/// A deployment whose targets have all been released with it, as nobody needs to read it.
pub(crate) fn released(row: deployment::Model, targets: usize) -> Result<Deployment> {
    let mut counts = Counts::default();
    counts.add(State::Pending, u32::try_from(targets).unwrap_or(u32::MAX));
    deployment_from(row, &[], &PhaseCounts::from([(0, counts)]), None)
}

fn deployment_from(
    row: deployment::Model,
    phases: &[phase::Model],
    counts: &PhaseCounts,
    schedule: Option<&schedule::Model>,
) -> Result<Deployment> {
    let terms = schedule.map(schedules::from_row).transpose()?;
    let (schedule, dynamic) = match terms {
        Some(terms) => (Some(terms.schedule), terms.dynamic),
        None => (None, None),
    };
    let rollout = (row.phase_count > 0)
        .then(|| rollout(&row, phases))
        .transpose()?;
    Ok(Deployment {
        schedule: schedule.filter(|schedule| *schedule != Schedule::default()),
        opens_at: None,
        dynamic,
        rollout,
        phases: statuses(phases, counts),
        phase: u32::try_from(row.phase).unwrap_or(0),
        counts: all_phases(counts),
        id: DeploymentId(row.id),
        digest: Some(row.digest.as_str())
            .filter(|text| !text.is_empty())
            .map(digest)
            .transpose()?,
        bundle: if row.bundle_version.is_empty() {
            row.bundle_name
        } else {
            format!("{}:{}", row.bundle_name, row.bundle_version)
        },
        rolls_back: row.rolls_back.map(DeploymentId),
        state: named("state", &row.state, DeploymentState::parse)?,
        result: row
            .result
            .map(|text| named("result", &text, DeploymentResult::parse))
            .transpose()?,
        paused_reason: row.paused_reason,
        created_by: row.created_by,
        created_at: Timestamp(row.created_at),
        finished_at: row.finished_at.map(Timestamp),
        revision: unsigned(row.revision),
    })
}
