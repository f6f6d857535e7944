//! Rolls a deployment back because an operator wants it.

use kernex_proto::ids::DeploymentId;
use sea_orm::EntityTrait;
use uuid::Uuid;

use crate::store::{
    db::{
        error::{Result, not_found},
        store::Store,
    },
    entity::{deployment, stored::Stored},
    read::{
        deployments::created_deployment,
        rollback_plan::{plan, rollback_target},
    },
    write::{
        insert_rollback::{NewRollback, RollbackCause, RolledBack, insert_rollback},
        replay::{Caller, remember, replayed},
    },
};

impl Store {
    /// Stops a deployment if it still goes on, and creates one that returns its devices.
    pub async fn roll_back(&self, caller: &Caller, new: NewRollback) -> Result<RolledBack> {
        let new = &new;
        self.decide(|tx| async move {
            let row = deployment::Entity::find_by_id(Stored(new.deployment))
                .one(&tx.db)
                .await?;
            let row = row.ok_or_else(|| not_found("deployment", new.deployment))?;
            if let Some(id) = replayed::<Uuid>(&tx, caller).await? {
                return Ok(RolledBack {
                    created: created_deployment(&tx, DeploymentId(id)).await?,
                    steps: plan(&tx.db, &row)
                        .await?
                        .iter()
                        .map(rollback_target)
                        .collect(),
                    stopped: Vec::new(),
                });
            }
            let rolled = insert_rollback(&tx, caller, new, &row, RollbackCause::Operator).await?;
            remember(&tx, caller, &rolled.created.deployment.id.0).await?;
            Ok(rolled)
        })
        .await
    }
}
