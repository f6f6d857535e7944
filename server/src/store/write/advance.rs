//! Moves deployments with phases on. The facts of all of them are read at once. What the planner
//! decides about a deployment is applied in a transaction of its own, which reads the facts again.
//! Writers are serial, so several replicas may do this at the same time.

use std::{collections::BTreeMap, time::Duration};

use kernex_proto::ids::{DeploymentId, DeviceId};
use sea_orm::{
    ColumnTrait, EntityTrait, QueryFilter, QueryOrder,
    sea_query::{Expr, ExprTrait},
};
use serde_json::json;

use crate::{
    clock::Timestamp,
    domain::{
        rollout::{Action, DeploymentState, PauseReason, Plan, plan},
        schedule::Gate,
    },
    store::{
        db::{
            error::{Result, StoreError},
            new_event::Subject,
            store::Store,
            transaction::Deciding,
            values::unsigned,
        },
        entity::{deployment, phase, schedule, stored::Stored},
        read::{
            counts::{PhaseCounts, counts_by_phase},
            held_targets::choose_held,
            phases::{Phases, budgets, facts, phases},
            schedules::{self, accepts_devices},
            scope::Scope,
        },
        write::{
            change_deployment::{DeploymentChange, mark_phase, open_phase},
            finish::finish,
            insert_rollback::{NewRollback, RollbackCause, insert_rollback},
            open_targets::open_targets,
            replay::{Caller, Origin},
            stop::stop,
        },
    },
};

/// What a round over the deployments with phases did.
#[derive(Debug, Default)]
pub struct Advanced {
    /// How many of them are not finished.
    pub open: usize,
    /// How many actions were applied.
    pub applied: usize,
    /// Devices whose targets were opened; they have to be woken.
    pub devices: Vec<DeviceId>,
    /// The next instant at which something becomes due by time alone.
    pub wake: Option<Timestamp>,
    /// Deployments that met an error, and which.
    pub failed: Vec<(DeploymentId, StoreError)>,
}

/// Selects deployments with phases. Written like the condition of the partial index, which the
/// database would not use for a bound value.
fn has_phases() -> Expr {
    deployment::Column::PhaseCount
        .into_expr()
        .gt(Expr::Constant(0.into()))
}

impl Store {
    /// Moves all deployments with phases on, as far as they go now.
    pub async fn advance_rollouts(&self) -> Result<Advanced> {
        let db = self.reader();
        let rows = deployment::Entity::find()
            .filter(has_phases())
            .filter(deployment::Column::State.ne(DeploymentState::Finished.as_str()))
            .order_by_asc(deployment::Column::Id)
            .all(db)
            .await?;
        let ids: Vec<Stored<DeploymentId>> = rows.iter().map(|row| row.id).collect();
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
            let next = next_actions(&row, &phases, &counts, schedules.get(&row.id), self.time())?;
            advanced.wake = advanced.wake.into_iter().chain(next.wake).min();
            if self.is_idle(&row, &next.actions).await? {
                continue;
            }
            let id = row.id.0;
            match self
                .decide(|tx| async move { advance_deployment(&tx, id).await })
                .await
            {
                Ok((applied, devices)) => {
                    advanced.applied += applied;
                    advanced.devices.extend(devices);
                }
                Err(error @ StoreError::Unavailable(_)) => return Err(error),
                // A defect in one deployment does not hold up the others.
                Err(error) => advanced.failed.push((id, error)),
            }
        }
        Ok(advanced)
    }

    /// Whether there is nothing to write. That is also so when budgets leave no room for the
    /// targets that would be opened.
    async fn is_idle(&self, row: &deployment::Model, actions: &[Action]) -> Result<bool> {
        let [Action::OpenTargets { through, at_most }] = actions else {
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

fn next_actions(
    row: &deployment::Model,
    phases: &Phases,
    counts: &BTreeMap<Stored<DeploymentId>, PhaseCounts>,
    schedule: Option<&schedule::Model>,
    now: Option<Timestamp>,
) -> Result<Plan> {
    let none = PhaseCounts::new();
    let phases = phases.get(&row.id).map_or(&[][..], Vec::as_slice);
    let mut facts = facts(row, phases, counts.get(&row.id).unwrap_or(&none))?;
    facts.lingers = accepts_devices(row, schedule);
    Ok(plan(&facts, schedule_gate(schedule, now)?, now))
}

/// Whether time allows targets of a deployment to begin.
fn schedule_gate(schedule: Option<&schedule::Model>, now: Option<Timestamp>) -> Result<Gate> {
    let Some(row) = schedule else {
        return Ok(Gate::ALWAYS_OPEN);
    };
    Ok(schedules::from_row(row)?.schedule.gate_by(now))
}

/// Moves one deployment with phases on, by its rows as this transaction sees them. Returns the
/// number of actions, and the devices whose targets were opened.
pub(crate) async fn advance_deployment(
    tx: &Deciding,
    id: DeploymentId,
) -> Result<(usize, Vec<DeviceId>)> {
    let Some(row) = deployment::Entity::find_by_id(Stored(id))
        .one(&tx.db)
        .await?
    else {
        return Ok((0, Vec::new()));
    };
    if row.phase_count == 0 {
        return Ok((0, Vec::new()));
    }
    let ids = [Stored(id)];
    let (phases, counts) = (
        phases(&tx.db, &ids).await?,
        counts_by_phase(&tx.db, &ids).await?,
    );
    let schedule = schedules::find(&tx.db, id).await?;
    let plan = next_actions(&row, &phases, &counts, schedule.as_ref(), tx.time())?;
    let mut change = DeploymentChange::of(&row)?;
    let mut devices = Vec::new();
    for action in &plan.actions {
        if let Action::RollBack(reason) = action {
            let told = Box::pin(roll_back(tx, &row, *reason)).await?;
            // It is stopped now, and not paused.
            return Ok((plan.actions.len(), told));
        }
    }
    for action in &plan.actions {
        match action {
            Action::Start => {
                change.state = DeploymentState::Active;
                tx.event("deployment.started", Subject::Deployment(id), json!({}));
            }
            Action::OpenPhase(number) => {
                open_phase(tx, id, *number).await?;
                change.phase = *number;
            }
            Action::OpenTargets { through, at_most } => {
                devices.extend(open_targets(tx, &row, *through, *at_most).await?);
            }
            Action::Passed(number) => {
                mark_phase(tx, id, *number, phase::Column::PassedAt).await?;
                let detail = json!({ "phase": number });
                tx.event("deployment.phase_passed", Subject::Deployment(id), detail);
            }
            Action::Soaked(number) => mark_phase(tx, id, *number, phase::Column::SoakedAt).await?,
            Action::Pause(reason) => {
                change.state = DeploymentState::Paused;
                change.paused_reason = reason.to_string();
                let detail = json!({ "reason": reason.to_string() });
                tx.event("deployment.paused", Subject::Deployment(id), detail);
            }
            // It was done above.
            Action::RollBack(_) => {}
            Action::AwaitApproval => {
                change.state = DeploymentState::AwaitingApproval;
                let detail = json!({ "phase": change.phase + 1 });
                tx.event(
                    "deployment.awaiting_approval",
                    Subject::Deployment(id),
                    detail,
                );
            }
            Action::Finish => {
                // `finish` writes the deployment. No other action changes it in the same step.
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

/// Stops a deployment that failed and returns its devices to what they ran before. Returns the
/// devices to wake. Where no device can go back, the deployment ends as failed all the same,
/// because its operator has said already what is to happen.
async fn roll_back(
    tx: &Deciding,
    row: &deployment::Model,
    reason: PauseReason,
) -> Result<Vec<DeviceId>> {
    let new = NewRollback {
        deployment: row.id.0,
        delivery: Duration::from_micros(unsigned(row.delivery_us)),
        execution: Duration::from_micros(unsigned(row.execution_us)),
        traceparent: row.traceparent.clone(),
        message: reason.to_string(),
    };
    let server = Caller {
        name: "kernex".to_owned(),
        scope: Scope::Everything,
        request: None,
        method: "OnFailure",
        origin: Origin::default(),
    };
    let reason = reason.to_string();
    match insert_rollback(tx, &server, &new, row, RollbackCause::Failure).await {
        Ok(rolled) => {
            note_end(tx, row, reason).await?;
            let mut told = rolled.stopped;
            told.extend(rolled.created.devices);
            Ok(told)
        }
        Err(StoreError::NothingToRollBack(why)) => {
            let detail = json!({ "reason": reason, "why": why });
            tx.event(
                "deployment.rollback_refused",
                Subject::Deployment(row.id.0),
                detail,
            );
            let told = stop(tx, row, row.cancelled_at).await?;
            note_end(tx, row, format!("{reason}; no device could go back: {why}")).await?;
            Ok(told)
        }
        Err(error) => Err(error),
    }
}

/// Writes why a deployment has ended by itself. Its state was changed before.
async fn note_end(tx: &Deciding, row: &deployment::Model, reason: String) -> Result<()> {
    deployment::Entity::update_many()
        .col_expr(deployment::Column::EndedReason, Expr::value(reason))
        .filter(deployment::Column::Id.eq(row.id))
        .exec(&tx.db)
        .await?;
    Ok(())
}
