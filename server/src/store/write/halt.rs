//! Halting a deployment: what goes back ends as well.

use kernex_proto::ids::DeploymentId;
use serde_json::json;
use uuid::Uuid;

use crate::{
    domain::{attempt::Closing, rollout::DeploymentState},
    store::{
        db::{
            error::{Result, StoreError},
            store::Store,
        },
        read::deployments::deployment_row,
        write::{
            replay::{Caller, remember, replayed},
            steer::{Steered, record_change, steered},
            stop::{halt, stop_attempts},
        },
    },
};

impl Store {
    /// Cancels a deployment unless that was done before, and ends what goes back; also gives the
    /// devices to tell. One that is finished can be halted as long as a device has not answered.
    pub async fn halt_deployment(&self, caller: &Caller, id: DeploymentId) -> Result<Steered> {
        self.decide(|tx| async move {
            if replayed::<Uuid>(&tx, caller).await?.is_some() {
                return steered(&tx, id).await;
            }
            let row = deployment_row(&tx.db, id).await?;
            let is_finished = row.state == DeploymentState::Finished.as_str();
            let (devices, is_news) = if is_finished || row.cancelled_at.is_some() {
                // Whoever still has to answer is asked again, and what goes back by now ends as
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
                let detail = json!({ "by": caller.name, "devices": devices.len() });
                record_change(&tx, caller, id, "deployment.halted", detail).await?;
            }
            remember(&tx, caller, &id.0).await?;
            steered(&tx, id).await
        })
        .await
    }
}
