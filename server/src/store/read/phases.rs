//! Phases of deployments: from rows to what the planner looks at.

use std::{collections::BTreeMap, time::Duration};

use kernex_proto::ids::DeploymentId;
use sea_orm::{ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QueryOrder};

use crate::{
    clock::Timestamp,
    domain::rollout::{
        Amount, Budget, Counts, DeploymentState, OnFailure, Percent, Phase, PhaseFacts, Rollout,
        RolloutFacts,
    },
    store::{
        db::{
            error::Result,
            sizes::ID_CHUNK,
            values::{parse_name, unsigned},
        },
        entity::{deployment, phase, stored::Stored},
        read::counts::PhaseCounts,
    },
};

/// Phases of many deployments, in order.
pub(crate) type Phases = BTreeMap<Stored<DeploymentId>, Vec<phase::Model>>;

/// Phases of some deployments.
pub(crate) async fn phases<C: ConnectionTrait>(
    db: &C,
    deployments: &[Stored<DeploymentId>],
) -> Result<Phases> {
    let mut phases = Phases::new();
    for chunk in deployments.chunks(ID_CHUNK) {
        let rows = phase::Entity::find()
            .filter(phase::Column::DeploymentId.is_in(chunk.iter().copied()))
            .order_by_asc(phase::Column::DeploymentId)
            .order_by_asc(phase::Column::Number)
            .all(db)
            .await?;
        for row in rows {
            phases.entry(row.deployment_id).or_default().push(row);
        }
    }
    Ok(phases)
}

/// The rollout that was ordered.
pub(crate) fn rollout(row: &deployment::Model, phases: &[phase::Model]) -> Result<Rollout, DbErr> {
    Ok(Rollout {
        phases: phases.iter().map(phase_from).collect(),
        max_in_flight: row.max_in_flight.and_then(|most| u32::try_from(most).ok()),
        budgets: budgets(row)?,
        approval: row.approval,
        on_failure: parse_name("on_failure", &row.on_failure, OnFailure::parse)?,
    })
}

/// The facts that the planner decides by.
pub(crate) fn facts(
    row: &deployment::Model,
    phases: &[phase::Model],
    counts: &PhaseCounts,
) -> Result<RolloutFacts, DbErr> {
    let phases = phases.iter().map(|phase| PhaseFacts {
        phase: phase_from(phase),
        counts: counts.get(&phase.number).copied().unwrap_or_default(),
        passed_at: phase.passed_at.map(Timestamp),
        soaked_at: phase.soaked_at.map(Timestamp),
        forgiven: u32::try_from(phase.forgiven).unwrap_or(0),
    });
    Ok(RolloutFacts {
        state: parse_name("state", &row.state, DeploymentState::parse)?,
        open: u32::try_from(row.phase).unwrap_or(0),
        phases: phases.collect(),
        max_in_flight: row.max_in_flight.and_then(|most| u32::try_from(most).ok()),
        approval: row.approval,
        on_failure: parse_name("on_failure", &row.on_failure, OnFailure::parse)?,
        lingers: false,
    })
}

/// The disruption budgets of a deployment.
pub(crate) fn budgets(row: &deployment::Model) -> Result<Vec<Budget>, DbErr> {
    let stored: BTreeMap<String, u32> = serde_json::from_str(&row.budgets)
        .map_err(|error| DbErr::Json(format!("budgets of {}: {error}", row.id)))?;
    let budgets = stored.into_iter();
    Ok(budgets.map(|(label, max)| Budget { label, max }).collect())
}

/// A phase and where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PhaseStatus {
    /// Its number, from 1.
    pub number: u32,
    /// As it was ordered.
    pub phase: Phase,
    pub counts: Counts,
    pub opened_at: Option<Timestamp>,
    /// When it reached its success threshold.
    pub passed_at: Option<Timestamp>,
    /// When it had soaked as well.
    pub soaked_at: Option<Timestamp>,
}

pub(crate) fn statuses(phases: &[phase::Model], counts: &PhaseCounts) -> Vec<PhaseStatus> {
    let statuses = phases.iter().map(|row| PhaseStatus {
        number: u32::try_from(row.number).unwrap_or(0),
        phase: phase_from(row),
        counts: counts.get(&row.number).copied().unwrap_or_default(),
        opened_at: row.opened_at.map(Timestamp),
        passed_at: row.passed_at.map(Timestamp),
        soaked_at: row.soaked_at.map(Timestamp),
    });
    statuses.collect()
}

fn phase_from(row: &phase::Model) -> Phase {
    Phase {
        size: amount(row.size_count, row.size_points),
        success: row.success_points.map(percent),
        max_failures: amount(row.failures_count, row.failures_points),
        soak: Duration::from_micros(unsigned(row.soak_us)),
    }
}

fn amount(count: Option<i64>, points: Option<i32>) -> Amount {
    match points {
        Some(points) => Amount::Share(percent(points)),
        None => Amount::Count(u32::try_from(count.unwrap_or(0)).unwrap_or(u32::MAX)),
    }
}

fn percent(points: i32) -> Percent {
    Percent::from_points(u32::try_from(points).unwrap_or(0))
}
