//! Finishes deployments.

use std::collections::BTreeSet;

use kernex_proto::ids::DeploymentId;
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QuerySelect, QueryTrait,
    sea_query::Expr,
};
use serde_json::json;

use crate::{
    domain::rollout::DeploymentState,
    store::{
        db::{error::Result, new_event::Subject, transaction::Tx},
        entity::{attempt, deployment, stored::Stored},
        read::{
            attempts::{is_unresolved, open_states},
            counts::{counts_by_phase, sum_of_phases},
            schedules::{self, accepts_devices},
        },
    },
};

/// Finishes deployments without phases that have no open target left; the planner finishes the
/// others. Writers are serial, so when two close the last two targets, one of them sees that.
pub(crate) async fn finish_deployments(tx: &Tx, candidates: BTreeSet<DeploymentId>) -> Result<()> {
    for id in candidates {
        let open = attempt::Entity::find()
            .select_only()
            .column(attempt::Column::Number)
            .filter(attempt::Column::DeploymentId.eq(id.0))
            .filter(is_unresolved())
            .filter(attempt::Column::State.is_in(open_states()))
            .into_tuple::<i32>()
            .one(&tx.db)
            .await?;
        if open.is_some() {
            continue;
        }
        let row = deployment::Entity::find_by_id(Stored(id))
            .one(&tx.db)
            .await?;
        if row.is_some_and(|row| row.phase_count == 0) {
            finish(tx, id).await?;
        }
    }
    Ok(())
}

/// Finishes a deployment that has no open target left and accepts no more devices.
pub(crate) async fn finish(tx: &Tx, id: DeploymentId) -> Result<()> {
    let Some(row) = deployment::Entity::find_by_id(Stored(id))
        .one(&tx.db)
        .await?
    else {
        return Ok(());
    };
    if accepts_devices(&row, schedules::find(&tx.db, id).await?.as_ref()) {
        return Ok(());
    }
    let counts = counts_by_phase(&tx.db, &[Stored(id)])
        .await?
        .remove(&Stored(id));
    let counts = counts.as_ref().map(sum_of_phases).unwrap_or_default();
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
        .filter(deployment::Column::Id.eq(id.0));
    tx.db.execute(update.as_query()).await?;
    tx.event_of_trace(
        "deployment.finished",
        Subject::Deployment(id),
        json!({ "result": result.as_str() }),
        row.traceparent,
    );
    Ok(())
}
