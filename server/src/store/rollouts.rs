//! Deployments with phases, moved on: facts are read for all of them at once, and what the planner says about one is
//! applied in one transaction that reads them again. Writers are serial, so that several replicas may do this.

use std::{collections::BTreeMap, pin::Pin, time::Duration};

use kernex_proto::ids::{AttemptId, DeploymentId, DeviceId, TargetId};
use sea_orm::{
    ColumnTrait, Condition, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect,
    sea_query::{Expr, ExprTrait},
};
use serde_json::json;
use uuid::Uuid;

use super::{
    Caller, Result, Store, StoreError,
    attempts::{Batch, is_unresolved, unsigned},
    entity::{attempt, deployment, phase, schedule},
    phases::{Phases, budgets, facts, phases},
    progress::{PhaseCounts, counts_by_phase, finish},
    releases::choose_held,
    rollbacks::{Cause, NewRollback, take_back},
    schedules::{self, lingers},
    transaction::{Deciding, ID_CHUNK, Tx},
};
use crate::{
    clock::Timestamp,
    domain::{
        attempt::{Fact, State},
        rollout::{Action, DeploymentState, Gate, PauseReason, Plan, plan},
        schedule as times,
    },
};

/// What a round over the open rollouts did.
#[derive(Debug, Default)]
pub struct Advanced {
    /// Deployments with phases that are not finished.
    pub open: usize,
    /// Actions that were applied.
    pub applied: usize,
    /// Devices that were released, to be told.
    pub devices: Vec<DeviceId>,
    /// When time alone changes what is to be done.
    pub wake: Option<Timestamp>,
    /// Deployments that cannot go on, and why.
    pub failed: Vec<(DeploymentId, StoreError)>,
}

/// Which deployments proceed in phases, in the words of the index that has only those; a bound value would not be taken for
/// them.
fn has_phases() -> Expr {
    deployment::Column::PhaseCount
        .into_expr()
        .gt(Expr::Constant(0.into()))
}

impl Store {
    /// Does what is to be done next about every deployment with phases.
    pub async fn advance_rollouts(&self) -> Result<Advanced> {
        let db = self.reader();
        let rows = deployment::Entity::find()
            .filter(has_phases())
            .filter(deployment::Column::State.ne(DeploymentState::Finished.as_str()))
            .order_by_asc(deployment::Column::Id)
            .all(db)
            .await?;
        let ids: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
        let mut advanced = Advanced {
            open: rows.len(),
            ..Advanced::default()
        };
        if ids.is_empty() {
            return Ok(advanced);
        }
        let (phases, counts) = (phases(db, &ids).await?, counts_by_phase(db, &ids).await?);
        let schedules = schedules::rows_of(db, &ids).await?;
        for row in rows {
            let next = next(&row, &phases, &counts, schedules.get(&row.id), self.time())?;
            advanced.wake = advanced.wake.into_iter().chain(next.wake).min();
            if self.is_idle(&row, &next.actions).await? {
                continue;
            }
            let id = row.id;
            match self.decide(|tx| async move { step(&tx, id).await }).await {
                Ok((applied, devices)) => {
                    advanced.applied += applied;
                    advanced.devices.extend(devices);
                }
                Err(error @ StoreError::Unavailable(_)) => return Err(error),
                // One that trips over a defect does not hold up the others.
                Err(error) => advanced.failed.push((DeploymentId(id), error)),
            }
        }
        Ok(advanced)
    }

    /// Whether there is nothing to write: also when budgets leave no room for what would be released.
    async fn is_idle(&self, row: &deployment::Model, actions: &[Action]) -> Result<bool> {
        let [Action::Release { through, at_most }] = actions else {
            return Ok(actions.is_empty());
        };
        let budgets = budgets(row)?;
        if budgets.is_empty() {
            return Ok(false);
        }
        let chosen = choose_held(self.reader(), row.id, *through, *at_most, &budgets).await?;
        Ok(chosen.is_empty())
    }
}

fn next(
    row: &deployment::Model,
    phases: &Phases,
    counts: &BTreeMap<Uuid, PhaseCounts>,
    schedule: Option<&schedule::Model>,
    now: Option<Timestamp>,
) -> Result<Plan> {
    let none = PhaseCounts::new();
    let phases = phases.get(&row.id).map_or(&[][..], Vec::as_slice);
    let mut facts = facts(row, phases, counts.get(&row.id).unwrap_or(&none))?;
    facts.lingers = lingers(row, schedule);
    Ok(plan(&facts, gate(schedule, now)?, now))
}

/// Whether time allows targets of a deployment to begin.
fn gate(schedule: Option<&schedule::Model>, now: Option<Timestamp>) -> Result<Gate> {
    let Some(row) = schedule else {
        return Ok(Gate::Open);
    };
    Ok(match schedules::from_row(row)?.schedule.gate_by(now) {
        times::Gate::Open { .. } => Gate::Open,
        times::Gate::Closed { until } => Gate::Closed { until },
    })
}

/// Does what is to be done next about one deployment with phases, as its rows stand in this transaction. Says how many
/// actions that were, and which devices were released.
pub(crate) async fn step(tx: &Deciding, id: Uuid) -> Result<(usize, Vec<DeviceId>)> {
    let Some(row) = deployment::Entity::find_by_id(id).one(&tx.db).await? else {
        return Ok((0, Vec::new()));
    };
    if row.phase_count == 0 {
        return Ok((0, Vec::new()));
    }
    let ids = [id];
    let (phases, counts) = (
        phases(&tx.db, &ids).await?,
        counts_by_phase(&tx.db, &ids).await?,
    );
    let schedule = schedules::find(&tx.db, id).await?;
    let plan = next(&row, &phases, &counts, schedule.as_ref(), tx.time())?;
    let mut change = Change::of(&row)?;
    let mut devices = Vec::new();
    for action in &plan.actions {
        if let Action::RollBack(reason) = action
            && let Some(told) = roll_back(tx, &row, *reason).await?
        {
            // It is stopped now, and not paused.
            return Ok((plan.actions.len(), told));
        }
    }
    for action in &plan.actions {
        match action {
            Action::Start => {
                change.state = DeploymentState::Active;
                tx.event("deployment.started", None, Some(id), json!({}));
            }
            Action::Open(number) => {
                open_phase(tx, id, *number).await?;
                change.phase = *number;
            }
            Action::Release { through, at_most } => {
                devices.extend(release(tx, &row, *through, *at_most).await?);
            }
            Action::Passed(number) => {
                mark(tx, id, *number, phase::Column::PassedAt).await?;
                let detail = json!({ "phase": number });
                tx.event("deployment.phase_passed", None, Some(id), detail);
            }
            Action::Soaked(number) => mark(tx, id, *number, phase::Column::SoakedAt).await?,
            Action::Pause(reason) => {
                change.state = DeploymentState::Paused;
                change.paused_reason = reason.to_string();
                let detail = json!({ "reason": reason.to_string() });
                tx.event("deployment.paused", None, Some(id), detail);
            }
            // No device can go back, which is told; it pauses like any other.
            Action::RollBack(_) => {}
            Action::AwaitApproval => {
                change.state = DeploymentState::AwaitingApproval;
                let detail = json!({ "phase": change.phase + 1 });
                tx.event("deployment.awaiting_approval", None, Some(id), detail);
            }
            Action::Finish => {
                // Writes the deployment itself; nothing else changes about it in the same step.
                finish(tx, id).await?;
                return Ok((plan.actions.len(), devices));
            }
        }
    }
    if !plan.actions.is_empty() {
        change.write(tx, &row).await?;
    }
    Ok((plan.actions.len(), devices))
}

type Boxed<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// Stops a deployment that failed and returns its devices to what they ran before; gives the devices to tell, or none when no
/// device can go back. Boxed, because stopping a deployment is a step of it as well.
fn roll_back<'a>(
    tx: &'a Deciding,
    row: &'a deployment::Model,
    reason: PauseReason,
) -> Boxed<'a, Option<Vec<DeviceId>>> {
    Box::pin(async move {
        let new = NewRollback {
            deployment: DeploymentId(row.id),
            delivery: Duration::from_micros(unsigned(row.delivery_us)),
            execution: Duration::from_micros(unsigned(row.execution_us)),
            traceparent: row.traceparent.clone(),
        };
        let server = Caller {
            name: "kernex".to_owned(),
            request_id: None,
            method: "OnFailure",
        };
        let reason = reason.to_string();
        match take_back(tx, &server, &new, row, Cause::Failure).await {
            Ok(rolled) => {
                deployment::Entity::update_many()
                    .col_expr(deployment::Column::PausedReason, Expr::value(reason))
                    .filter(deployment::Column::Id.eq(row.id))
                    .exec(&tx.db)
                    .await?;
                let mut told = rolled.stopped;
                told.extend(rolled.created.devices);
                Ok(Some(told))
            }
            Err(StoreError::NothingToRollBack(why)) => {
                let detail = json!({ "reason": reason, "why": why });
                tx.event("deployment.rollback_refused", None, Some(row.id), detail);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    })
}

/// Opens a phase; what is released of it is the planner's next word.
pub(crate) async fn open_phase(tx: &Tx, id: Uuid, number: u32) -> Result<()> {
    mark(tx, id, number, phase::Column::OpenedAt).await?;
    let detail = json!({ "phase": number });
    tx.event("deployment.phase_opened", None, Some(id), detail);
    Ok(())
}

async fn mark(tx: &Tx, id: Uuid, number: u32, column: phase::Column) -> Result<()> {
    phase::Entity::update_many()
        .col_expr(column, Expr::value(tx.now.0))
        .filter(phase::Column::DeploymentId.eq(id))
        .filter(phase::Column::Number.eq(number as i32))
        .filter(column.is_null())
        .exec(&tx.db)
        .await?;
    Ok(())
}

/// What changes about a deployment itself.
pub(crate) struct Change {
    pub(crate) state: DeploymentState,
    pub(crate) phase: u32,
    pub(crate) paused_reason: String,
}

impl Change {
    /// Nothing yet.
    pub(crate) fn of(row: &deployment::Model) -> Result<Self, DbErr> {
        Ok(Self {
            state: super::attempts::named("state", &row.state, DeploymentState::parse)?,
            phase: u32::try_from(row.phase).unwrap_or(0),
            paused_reason: row.paused_reason.clone(),
        })
    }

    /// Writes it, if the deployment is still the one that was read. Phases are part of it, so its revision grows with
    /// theirs. Of one that is paused nothing is pushed from here on.
    pub(crate) async fn write(&self, tx: &Deciding, row: &deployment::Model) -> Result<()> {
        if self.state == DeploymentState::Paused {
            hold_back(tx, row.id).await?;
        }
        let written = deployment::Entity::update_many()
            .col_expr(deployment::Column::State, Expr::value(self.state.as_str()))
            .col_expr(deployment::Column::Phase, Expr::value(self.phase as i32))
            .col_expr(
                deployment::Column::PausedReason,
                Expr::value(self.paused_reason.clone()),
            )
            .col_expr(
                deployment::Column::Revision,
                Expr::col(deployment::Column::Revision).add(1),
            )
            .filter(deployment::Column::Id.eq(row.id))
            .filter(deployment::Column::Revision.eq(row.revision))
            .exec(&tx.db)
            .await?;
        if written.rows_affected != 1 {
            return Err(DbErr::RecordNotUpdated.into());
        }
        tx.touch();
        Ok(())
    }
}

/// Holds what might be pushed of a deployment until the transaction is over.
async fn hold_back(tx: &Deciding, deployment: Uuid) -> Result<()> {
    let waiting: Vec<(Uuid, i32)> = attempt::Entity::find()
        .select_only()
        .columns([attempt::Column::TargetId, attempt::Column::Number])
        .filter(attempt::Column::DeploymentId.eq(deployment))
        .filter(is_unresolved())
        .into_tuple()
        .all(&tx.db)
        .await?;
    let waiting = waiting.into_iter().map(|(target, number)| AttemptId {
        target: TargetId(target),
        number: u32::try_from(number).unwrap_or(0),
    });
    // What was pushed before goes on; nothing of these rows is written.
    drop(tx.decision().hold(waiting));
    Ok(())
}

/// Releases held targets; the time for reaching their devices begins here.
async fn release(
    tx: &Tx,
    row: &deployment::Model,
    through: u32,
    at_most: u32,
) -> Result<Vec<DeviceId>> {
    let chosen = choose_held(&tx.db, row.id, through, at_most, &budgets(row)?).await?;
    let deadline = Timestamp(tx.now.0.saturating_add(row.delivery_us));
    let mut devices = Vec::with_capacity(chosen.len());
    for chunk in chosen.chunks(ID_CHUNK) {
        let mut batch = Batch::new(tx);
        let held = Condition::all()
            .add(attempt::Column::TargetId.is_in(chunk.iter().copied()))
            .add(attempt::Column::State.eq(State::Held.as_str()));
        batch.load(held, None).await?;
        for (_, entry) in batch.iter_mut() {
            let _ = entry.apply(Fact::Released { deadline }, tx.now);
            devices.push(DeviceId(entry.row.device_id));
        }
        batch.save().await?;
    }
    Ok(devices)
}
