//! Cancels a deployment.

use kernex_proto::ids::{DeploymentId, DeviceId};
use serde_json::json;
use uuid::Uuid;

use crate::{
    crash::Act,
    domain::rollout::DeploymentState,
    store::{
        db::{
            error::{Result, StoreError},
            new_event::Subject,
            store::Store,
        },
        read::deployments::{Deployment, deployment_row, devices_of, find_deployment},
        write::{
            audit::audit,
            replay::{Caller, remember, replayed},
            stop::cancel,
        },
    },
};

impl Store {
    /// Stops a deployment. Attempts that were not pushed are cancelled; devices that have others
    /// are told to stop them. Returns those devices as well.
    pub async fn cancel_deployment(
        &self,
        caller: &Caller,
        id: DeploymentId,
    ) -> Result<(Deployment, Vec<DeviceId>)> {
        self.decide_as(Act::CommitCancel, |tx| async move {
            if replayed::<Uuid>(&tx, caller).await?.is_some() {
                return Ok((
                    find_deployment(&tx.db, id).await?,
                    devices_of(&tx, id).await?,
                ));
            }
            let row = deployment_row(&tx.db, id).await?;
            if row.state == DeploymentState::Finished.as_str() {
                return Err(StoreError::Finished);
            }
            let devices = cancel(&tx, &row).await?;
            remember(&tx, caller, &id.0).await?;
            audit(&tx, caller, id, json!({ "devices": devices.len() })).await?;
            tx.event(
                "deployment.cancelled",
                Subject::Deployment(id),
                caller.made(json!({ "devices": devices.len() })),
            );
            Ok((find_deployment(&tx.db, id).await?, devices))
        })
        .await
    }
}
