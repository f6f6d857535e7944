//! Pauses a deployment.

use kernex_proto::ids::DeploymentId;
use serde_json::json;

use crate::{
    domain::rollout::DeploymentState,
    store::{
        db::{
            error::{Result, StoreError},
            store::OperatorStore,
            values::clean,
        },
        entity::stored::Stored,
        read::deployments::{Deployment, deployment_row, find_deployment},
        write::{
            change_deployment::DeploymentChange,
            replay::{Caller, remember, replayed},
            steer::{record_change, wrong_state},
        },
    },
};

impl OperatorStore {
    /// Pauses a deployment: nothing more of it begins.
    pub async fn pause_deployment(
        &self,
        caller: &Caller,
        id: DeploymentId,
        reason: &str,
    ) -> Result<Deployment> {
        let db = &self.0;
        db.decide(|tx| async move {
            if replayed::<Stored<DeploymentId>>(&tx, caller)
                .await?
                .is_some()
            {
                return find_deployment(&tx.db, id).await;
            }
            let row = deployment_row(&tx.db, caller.scope, id).await?;
            let mut change = DeploymentChange::of(&row)?;
            match change.state {
                DeploymentState::Scheduled
                | DeploymentState::Active
                | DeploymentState::AwaitingApproval => {}
                DeploymentState::Paused => return Err(wrong_state(id, "is paused already")),
                DeploymentState::Stopping => return Err(wrong_state(id, "was cancelled")),
                DeploymentState::Finished => return Err(StoreError::Finished),
            }
            change.state = DeploymentState::Paused;
            let given = clean(reason.trim());
            let mut detail = json!({ "by": caller.name });
            if given.is_empty() {
                change.paused_reason = format!("by {}", caller.name);
            } else {
                detail["reason"] = json!(given);
                change.paused_reason = given;
            }
            change.write(&tx, &row).await?;
            record_change(&tx, caller, id, "deployment.paused", detail).await?;
            remember(&tx, caller, &Stored(id)).await?;
            find_deployment(&tx.db, id).await
        })
        .await
    }
}
