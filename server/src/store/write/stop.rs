//! Tells the targets of a deployment to stop.

use kernex_proto::ids::{DeploymentId, DeviceId};
use sea_orm::{ColumnTrait, Condition, EntityTrait, QueryFilter, sea_query::Expr};

use crate::{
    domain::{attempt::Closing, rollout::DeploymentState},
    store::{
        db::{error::Result, transaction::Deciding},
        entity::{attempt, deployment},
        read::attempts::is_unresolved,
        write::{
            change_attempts::Batch,
            finish::{finish, finish_deployments},
        },
    },
};

/// Cancels a deployment that is not finished, for an operator. Returns the devices to wake.
pub(crate) async fn cancel(tx: &Deciding, row: &deployment::Model) -> Result<Vec<DeviceId>> {
    stop(tx, row, Some(row.cancelled_at.unwrap_or(tx.now.0))).await
}

/// The same, and devices that are going back stop that as well.
pub(crate) async fn halt(tx: &Deciding, row: &deployment::Model) -> Result<Vec<DeviceId>> {
    let cancelled_at = Some(row.cancelled_at.unwrap_or(tx.now.0));
    stop_as(tx, row, cancelled_at, Closing::Halt).await
}

/// [`cancel`] for any reason. Without a `cancelled_at` the result follows from the targets.
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
    let id = row.id.0;
    let (devices, _) = stop_attempts(tx, id, how).await?;
    // Maybe no target is open any more. The planner does nothing for a deployment that stops.
    if row.phase_count == 0 {
        finish_deployments(tx, [id].into()).await?;
    } else {
        finish(tx, id).await?;
    }
    Ok(devices)
}

/// Tells devices to stop the unresolved attempts of a deployment. Returns the devices to wake, and
/// for how many attempts the stop was new.
pub(crate) async fn stop_attempts(
    tx: &Deciding,
    deployment: DeploymentId,
    how: Closing,
) -> Result<(Vec<DeviceId>, u64)> {
    let mut batch = Batch::deciding(tx);
    let unresolved = Condition::all()
        .add(attempt::Column::DeploymentId.eq(deployment.0))
        .add(is_unresolved());
    batch.load(unresolved, None).await?;
    let mut devices = Vec::with_capacity(batch.len());
    for (_, entry) in batch.iter_mut() {
        let _ = entry.close(tx, how, tx.now);
        devices.push(entry.row.device_id.0);
    }
    Ok((devices, batch.save().await?))
}
