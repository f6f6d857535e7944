//! Changes of a deployment itself: its state, its open phase, why it is paused.

use kernex_proto::ids::{AttemptId, DeploymentId, TargetId};
use sea_orm::{
    ColumnTrait, DbErr, EntityTrait, QueryFilter, QuerySelect,
    sea_query::{Expr, ExprTrait},
};
use serde_json::json;

use crate::{
    domain::rollout::DeploymentState,
    store::{
        db::{
            error::Result,
            new_event::Subject,
            transaction::{Deciding, Tx},
            values::parse_name,
        },
        entity::{attempt, deployment, phase, stored::Stored},
        read::attempts::is_unresolved,
    },
};

/// The columns of a deployment that a step may change.
pub(crate) struct DeploymentChange {
    pub(crate) state: DeploymentState,
    pub(crate) phase: u32,
    pub(crate) paused_reason: String,
}

impl DeploymentChange {
    /// The columns as they are.
    pub(crate) fn of(row: &deployment::Model) -> Result<Self, DbErr> {
        Ok(Self {
            state: parse_name("state", &row.state, DeploymentState::parse)?,
            phase: u32::try_from(row.phase).unwrap_or(0),
            paused_reason: row.paused_reason.clone(),
        })
    }

    /// Writes the columns if the deployment is still as it was read. Its revision also counts
    /// changes of its phases. Once it is paused, nothing of it is pushed.
    pub(crate) async fn write(&self, tx: &Deciding, row: &deployment::Model) -> Result<()> {
        if self.state == DeploymentState::Paused {
            hold_back(tx, row.id.0).await?;
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

/// Keeps the attempts of a deployment from being pushed until the commit.
async fn hold_back(tx: &Deciding, deployment: DeploymentId) -> Result<()> {
    let waiting: Vec<(Stored<TargetId>, i32)> = attempt::Entity::find()
        .select_only()
        .columns([attempt::Column::TargetId, attempt::Column::Number])
        .filter(attempt::Column::DeploymentId.eq(deployment.0))
        .filter(is_unresolved())
        .into_tuple()
        .all(&tx.db)
        .await?;
    let waiting = waiting.into_iter().map(|(target, number)| AttemptId {
        target: target.0,
        number: u32::try_from(number).unwrap_or(0),
    });
    // Attempts that were pushed before go on. None of their rows is written here, so the notes of
    // their pushes stay in the buffer.
    drop(tx.decision().hold(waiting));
    Ok(())
}

/// Opens a phase. The planner decides afterwards which of its targets are opened.
pub(crate) async fn open_phase(tx: &Tx, id: DeploymentId, number: u32) -> Result<()> {
    mark_phase(tx, id, number, phase::Column::OpenedAt).await?;
    let detail = json!({ "phase": number });
    tx.event("deployment.phase_opened", Subject::Deployment(id), detail);
    Ok(())
}

pub(crate) async fn mark_phase(
    tx: &Tx,
    id: DeploymentId,
    number: u32,
    column: phase::Column,
) -> Result<()> {
    phase::Entity::update_many()
        .col_expr(column, Expr::value(tx.now.0))
        .filter(phase::Column::DeploymentId.eq(id.0))
        .filter(phase::Column::Number.eq(number as i32))
        .filter(column.is_null())
        .exec(&tx.db)
        .await?;
    Ok(())
}
