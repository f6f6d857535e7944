//! An operator takes a deployment back.

use kernex_proto::ids::DeploymentId;
use sea_orm::EntityTrait;
use uuid::Uuid;

use crate::store::{
    db::{
        error::{Result, not_found},
        store::Store,
    },
    entity::deployment,
    read::{
        deployments::created,
        rollback_plan::{plan, step},
    },
    write::{
        replay::{Caller, remember, replayed},
        take_back::{Cause, NewRollback, RolledBack, take_back},
    },
};

impl Store {
    /// Stops a deployment where it goes on, and commits one that takes it back.
    pub async fn roll_back(&self, caller: &Caller, new: NewRollback) -> Result<RolledBack> {
        let new = &new;
        self.decide(|tx| async move {
            let row = deployment::Entity::find_by_id(new.deployment.0)
                .one(&tx.db)
                .await?;
            let row = row.ok_or_else(|| not_found("deployment", new.deployment))?;
            if let Some(id) = replayed::<Uuid>(&tx, caller).await? {
                return Ok(RolledBack {
                    created: created(&tx, DeploymentId(id)).await?,
                    steps: plan(&tx.db, &row).await?.iter().map(step).collect(),
                    stopped: Vec::new(),
                });
            }
            let rolled = take_back(&tx, caller, new, &row, Cause::Operator).await?;
            remember(&tx, caller, &rolled.created.deployment.id.0).await?;
            Ok(rolled)
        })
        .await
    }
}
