//! Halts a deployment: it is cancelled, and devices that are going back stop that as well.

use kernex_proto::ids::DeploymentId;
use serde_json::json;

use crate::{
    domain::{attempt::Closing, rollout::DeploymentState},
    store::{
        db::{
            error::{Result, StoreError},
            store::OperatorStore,
        },
        entity::stored::Stored,
        read::deployments::deployment_row,
        write::{
            replay::{Caller, remember, replayed},
            steer::{Steered, record_change, steered},
            stop::{halt, stop_attempts},
        },
    },
};

impl OperatorStore {
    /// Cancels a deployment if that was not done before, and stops devices that are going back.
    /// Returns the devices to wake as well. A finished deployment can be halted until all its
    /// devices have answered.
    pub async fn halt_deployment(&self, caller: &Caller, id: DeploymentId) -> Result<Steered> {
        let db = &self.0;
        db.decide(|tx| async move {
            if replayed::<Stored<DeploymentId>>(&tx, caller)
                .await?
                .is_some()
            {
                return steered(&tx, id).await;
            }
            let row = deployment_row(&tx.db, caller.scope, id).await?;
            let is_finished = row.state == DeploymentState::Finished.as_str();
            let (devices, is_news) = if is_finished || row.cancelled_at.is_some() {
                // Devices that have not answered are told again, and now to stop going back as
                // well.
                let (devices, told) = stop_attempts(&tx, id, Closing::Halt).await?;
                (devices, told > 0)
            } else {
                (halt(&tx, &row).await?, true)
            };
            if is_finished && devices.is_empty() {
                return Err(StoreError::Finished);
            }
            if is_news {
                let detail = json!({ "devices": devices.len() });
                record_change(&tx, caller, id, "deployment.halted", detail).await?;
            }
            remember(&tx, caller, &Stored(id)).await?;
            steered(&tx, id).await
        })
        .await
    }
}
