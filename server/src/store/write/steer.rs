//! Parts that pause, resume, promote, retry and halt share.

use kernex_proto::ids::{DeploymentId, DeviceId};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, sea_query::Expr};
use serde_json::Value;

use crate::{
    domain::rollout::DeploymentState,
    store::{
        db::{
            error::{Result, StoreError},
            new_event::Subject,
            transaction::Tx,
        },
        entity::{phase, stored::Stored},
        read::{
            counts::counts_by_phase,
            deployments::{Deployment, devices_of, find_deployment},
        },
        write::{audit::audit, change_deployment::DeploymentChange, replay::Caller},
    },
};

/// The changed deployment, and the devices that have to be woken.
pub type Steered = (Deployment, Vec<DeviceId>);

/// The error of a change that the state of the deployment does not allow. `why` is the end of a
/// sentence about the deployment.
pub(crate) fn wrong_state(id: DeploymentId, why: impl Into<String>) -> StoreError {
    StoreError::WrongState {
        kind: "deployment",
        id: id.to_string(),
        why: why.into(),
    }
}

pub(crate) fn set_active(change: &mut DeploymentChange) {
    change.state = DeploymentState::Active;
    change.paused_reason.clear();
}

/// Forgives the failures of the open phases: they count no more, because an operator has seen them.
pub(crate) async fn forgive(tx: &Tx, id: DeploymentId, open: u32) -> Result<()> {
    let counts = counts_by_phase(&tx.db, &[Stored(id)])
        .await?
        .remove(&Stored(id));
    for (number, counts) in counts.unwrap_or_default() {
        let failed = counts.failed + counts.expired;
        if failed == 0 || number == 0 || number > open as i32 {
            continue;
        }
        phase::Entity::update_many()
            .col_expr(phase::Column::Forgiven, Expr::value(i64::from(failed)))
            .filter(phase::Column::DeploymentId.eq(id.0))
            .filter(phase::Column::Number.eq(number))
            .exec(&tx.db)
            .await?;
    }
    Ok(())
}

/// Records the change for the audit and for watchers.
pub(crate) async fn record_change(
    tx: &Tx,
    caller: &Caller,
    id: DeploymentId,
    kind: &'static str,
    detail: Value,
) -> Result<()> {
    audit(tx, caller, id, detail.clone()).await?;
    tx.event(kind, Subject::Deployment(id), caller.made(detail));
    Ok(())
}

pub(crate) async fn steered(tx: &Tx, id: DeploymentId) -> Result<Steered> {
    Ok((
        find_deployment(&tx.db, id).await?,
        devices_of(tx, id).await?,
    ))
}
