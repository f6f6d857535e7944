//! How far deployments are, derived from their targets; and the moment one is finished.

use std::collections::{BTreeMap, BTreeSet};

use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, ExprTrait, FromQueryResult, QueryFilter,
    QuerySelect, QueryTrait,
    sea_query::{Expr, Func, Query, TableRef},
};
use serde_json::json;
use uuid::Uuid;

use super::{
    Result, Store,
    attempts::{is_unresolved, named, open_states},
    entity::{attempt, deployment},
    schedules::{self, lingers},
    transaction::Tx,
};
use crate::domain::{
    attempt::{Reason, State},
    rollout::{Counts, DeploymentState},
};

/// Counts of targets by the number of their phase.
pub(crate) type PhaseCounts = BTreeMap<i32, Counts>;

/// Counts of the targets of deployments, phase by phase.
pub(crate) async fn counts_by_phase<C: ConnectionTrait>(
    db: &C,
    deployments: &[Uuid],
) -> Result<BTreeMap<Uuid, PhaseCounts>> {
    #[derive(FromQueryResult)]
    struct Row {
        deployment_id: Uuid,
        phase: i32,
        state: String,
        reason: Option<String>,
        n: i64,
    }
    let query = Query::select()
        .column(("a", "deployment_id"))
        .column(("t", "phase"))
        .columns([("a", "state"), ("a", "reason")])
        .expr_as(Func::count(Expr::col(("a", "number"))), "n")
        .from_as("attempts", "a")
        .inner_join(
            TableRef::from("targets").alias("t"),
            Expr::col(("t", "id"))
                .equals(("a", "target_id"))
                .and(Expr::col(("t", "latest_attempt")).equals(("a", "number"))),
        )
        .and_where(Expr::col(("a", "deployment_id")).is_in(deployments.iter().copied()))
        .group_by_columns([("a", "deployment_id"), ("t", "phase")])
        .group_by_columns([("a", "state"), ("a", "reason")])
        .to_owned();
    let mut counts = BTreeMap::<Uuid, PhaseCounts>::new();
    for row in db.query_all(&query).await? {
        let row = Row::from_query_result(&row, "")?;
        let state = named("state", &row.state, State::parse)?;
        let n = u32::try_from(row.n).unwrap_or(u32::MAX);
        let phases = counts.entry(row.deployment_id).or_default();
        let phase = phases.entry(row.phase).or_default();
        if row.reason.as_deref() == Some(Reason::Penalised.as_str()) {
            phase.penalised += n;
        } else {
            phase.add(state, n);
        }
    }
    Ok(counts)
}

impl Store {
    /// How many deployments are in each state.
    pub async fn deployment_counts(&self) -> Result<Vec<(DeploymentState, usize)>> {
        #[derive(FromQueryResult)]
        struct Row {
            state: String,
            n: i64,
        }
        let query = Query::select()
            .column("state")
            .expr_as(Func::count(Expr::col("id")), "n")
            .from("deployments")
            .group_by_col("state")
            .to_owned();
        let mut counts = DeploymentState::ALL
            .iter()
            .map(|state| (*state, 0))
            .collect::<Vec<_>>();
        for row in self.reader().query_all(&query).await? {
            let row = Row::from_query_result(&row, "")?;
            let state = named("state", &row.state, DeploymentState::parse)?;
            for (of, n) in &mut counts {
                if *of == state {
                    *n = usize::try_from(row.n).unwrap_or(usize::MAX);
                }
            }
        }
        Ok(counts)
    }
}

/// The whole of some phases.
pub(crate) fn all_phases(phases: &PhaseCounts) -> Counts {
    let mut all = Counts::default();
    for counts in phases.values() {
        all.merge(counts);
    }
    all
}

/// Finishes deployments without phases that have no open target left; the planner finishes the others. Writers are serial,
/// so two that close the last two targets cannot both miss it.
pub(crate) async fn finish_deployments(tx: &Tx, candidates: BTreeSet<Uuid>) -> Result<()> {
    for id in candidates {
        let open = attempt::Entity::find()
            .select_only()
            .column(attempt::Column::Number)
            .filter(attempt::Column::DeploymentId.eq(id))
            .filter(is_unresolved())
            .filter(attempt::Column::State.is_in(open_states()))
            .into_tuple::<i32>()
            .one(&tx.db)
            .await?;
        if open.is_some() {
            continue;
        }
        let row = deployment::Entity::find_by_id(id).one(&tx.db).await?;
        if row.is_some_and(|row| row.phase_count == 0) {
            finish(tx, id).await?;
        }
    }
    Ok(())
}

/// Finishes a deployment if it has no open target left and takes no more devices in.
pub(crate) async fn finish(tx: &Tx, id: Uuid) -> Result<()> {
    let Some(row) = deployment::Entity::find_by_id(id).one(&tx.db).await? else {
        return Ok(());
    };
    if lingers(&row, schedules::find(&tx.db, id).await?.as_ref()) {
        return Ok(());
    }
    let counts = counts_by_phase(&tx.db, &[id]).await?.remove(&id);
    let counts = counts.as_ref().map(all_phases).unwrap_or_default();
    let finished = DeploymentState::Finished.as_str();
    let Some(result) = counts
        .result(row.cancelled_at.is_some())
        .filter(|_| row.state != finished)
    else {
        return Ok(());
    };
    let update = deployment::Entity::update_many()
        .col_expr(deployment::Column::State, Expr::value(finished))
        .col_expr(deployment::Column::Result, Expr::value(result.as_str()))
        .col_expr(deployment::Column::FinishedAt, Expr::value(tx.now.0))
        .col_expr(deployment::Column::Revision, Expr::value(row.revision + 1))
        .filter(deployment::Column::Id.eq(id));
    tx.db.later(update.as_query()).await?;
    tx.event(
        "deployment.finished",
        None,
        Some(id),
        json!({ "result": result.as_str() }),
    );
    Ok(())
}
