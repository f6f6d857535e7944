//! Opens the next phase of a deployment.

use kernex_proto::ids::DeploymentId;
use serde_json::json;

use crate::{
    domain::rollout::DeploymentState,
    store::{
        db::{
            error::{Result, StoreError},
            store::OperatorStore,
        },
        entity::{deployment, stored::Stored},
        read::deployments::deployment_row,
        write::{
            advance::advance_deployment,
            change_deployment::{DeploymentChange, open_phase},
            join::join_every_device,
            replay::{Caller, remember, replayed},
            steer::{Steered, forgive, record_change, set_active, steered, wrong_state},
        },
    },
};

impl OperatorStore {
    /// Opens the next phase now. A caller may name its number, `wanted`, to be sure which one.
    /// Failures up to now are forgiven.
    pub async fn promote_deployment(
        &self,
        caller: &Caller,
        id: DeploymentId,
        wanted: Option<u32>,
    ) -> Result<Steered> {
        let db = &self.0;
        db.decide(|tx| async move {
            if replayed::<Stored<DeploymentId>>(&tx, caller)
                .await?
                .is_some()
            {
                return steered(&tx, id).await;
            }
            let row = deployment_row(&tx.db, caller.scope, id).await?;
            let mut change = DeploymentChange::of(&row)?;
            let next = next_phase(id, &row, &change, wanted)?;
            forgive(&tx, id, change.phase).await?;
            open_phase(&tx, id, next).await?;
            change.phase = next;
            set_active(&mut change);
            change.write(&tx, &row).await?;
            advance_deployment(&tx, id).await?;
            join_every_device(&tx, id).await?;
            let detail = json!({ "phase": next });
            record_change(&tx, caller, id, "deployment.promoted", detail).await?;
            remember(&tx, caller, &Stored(id)).await?;
            steered(&tx, id).await
        })
        .await
    }
}

/// The phase that a promotion opens.
fn next_phase(
    id: DeploymentId,
    row: &deployment::Model,
    now: &DeploymentChange,
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
