//! Has a deployment go on after a pause.

use kernex_proto::ids::DeploymentId;
use serde_json::json;

use crate::{
    domain::rollout::DeploymentState,
    store::{
        db::{
            error::{Result, StoreError},
            store::OperatorStore,
        },
        entity::stored::Stored,
        read::{deployments::deployment_row, schedules},
        write::{
            advance::advance_deployment,
            change_deployment::DeploymentChange,
            join::join_every_device,
            replay::{Caller, remember, replayed},
            steer::{Steered, forgive, record_change, set_active, steered, wrong_state},
        },
    },
};

impl OperatorStore {
    /// Resumes a paused deployment. Failures up to now are forgiven.
    pub async fn resume_deployment(&self, caller: &Caller, id: DeploymentId) -> Result<Steered> {
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
            match change.state {
                DeploymentState::Paused => {}
                DeploymentState::Finished => return Err(StoreError::Finished),
                other => return Err(wrong_state(id, format!("is not paused but {other}"))),
            }
            forgive(&tx, id, change.phase).await?;
            set_active(&mut change);
            if schedules::waits(&tx, id).await? {
                change.state = DeploymentState::Scheduled;
            }
            change.write(&tx, &row).await?;
            advance_deployment(&tx, id).await?;
            join_every_device(&tx, id).await?;
            let detail = json!({});
            record_change(&tx, caller, id, "deployment.resumed", detail).await?;
            remember(&tx, caller, &Stored(id)).await?;
            steered(&tx, id).await
        })
        .await
    }
}
