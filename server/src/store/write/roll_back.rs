//! Rolls a deployment back because an operator wants it.

use kernex_proto::ids::DeploymentId;

use crate::store::{
    db::{error::Result, store::OperatorStore},
    entity::stored::Stored,
    read::{
        deployments::{created_deployment, deployment_row},
        rollback_plan::{plan, rollback_target},
    },
    write::{
        insert_rollback::{NewRollback, RollbackCause, RolledBack, insert_rollback},
        replay::{Caller, remember, replayed},
    },
};

impl OperatorStore {
    /// Stops a deployment if it still goes on, and creates one that returns its devices.
    pub async fn roll_back(&self, caller: &Caller, new: NewRollback) -> Result<RolledBack> {
        let db = &self.0;
        let new = &new;
        db.decide(|tx| async move {
            let row = deployment_row(&tx.db, caller.scope, new.deployment).await?;
            if let Some(id) = replayed::<Stored<DeploymentId>>(&tx, caller).await? {
                return Ok(RolledBack {
                    created: created_deployment(&tx, id.0).await?,
                    steps: plan(&tx.db, &row)
                        .await?
                        .iter()
                        .map(rollback_target)
                        .collect(),
                    stopped: Vec::new(),
                });
            }
            let rolled = insert_rollback(&tx, caller, new, &row, RollbackCause::Operator).await?;
            remember(&tx, caller, &Stored(rolled.created.deployment.id)).await?;
            Ok(rolled)
        })
        .await
    }
}
