//! Cancels a deployment.

use kernex_proto::ids::DeploymentId;
use serde_json::json;

use crate::{
    crash::Act,
    domain::rollout::DeploymentState,
    store::{
        db::{
            error::{Result, StoreError},
            store::OperatorStore,
        },
        entity::stored::Stored,
        read::deployments::{deployment_row, find_deployment},
        write::{
            replay::{Caller, remember, replayed},
            steer::{Steered, record_change, steered},
            stop::cancel,
        },
    },
};

impl OperatorStore {
    /// Stops a deployment. Attempts that were not pushed are cancelled; devices that have others
    /// are told to stop them. Returns those devices as well.
    pub async fn cancel_deployment(&self, caller: &Caller, id: DeploymentId) -> Result<Steered> {
        let db = &self.0;
        db.decide_as(Act::CommitCancel, |tx| async move {
            if replayed::<Stored<DeploymentId>>(&tx, caller)
                .await?
                .is_some()
            {
                return steered(&tx, id).await;
            }
            let row = deployment_row(&tx.db, caller.scope, id).await?;
            if row.state == DeploymentState::Finished.as_str() {
                return Err(StoreError::Finished);
            }
            let devices = cancel(&tx, &row).await?;
            remember(&tx, caller, &Stored(id)).await?;
            let detail = json!({ "devices": devices.len() });
            record_change(&tx, caller, id, "deployment.cancelled", detail).await?;
            Ok((find_deployment(&tx.db, id).await?, devices))
        })
        .await
    }
}
