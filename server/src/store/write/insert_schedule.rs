//! Inserts the terms of a new deployment.

use kernex_proto::ids::DeploymentId;
use serde_json::json;

use crate::{
    domain::schedule::Schedule,
    store::{
        db::{error::Result, sizes::insert_all, transaction::Tx},
        entity::{schedule, stored::Stored},
        read::new_deployment::Terms,
    },
};

/// Writes the terms of a new deployment, if it has any.
pub(crate) async fn insert(
    tx: &Tx,
    deployment: DeploymentId,
    terms: &Terms,
    schedule: &Schedule,
) -> Result<()> {
    if *schedule == Schedule::default() && terms.dynamic.is_none() {
        return Ok(());
    }
    let windows: Vec<String> = schedule.windows.iter().map(ToString::to_string).collect();
    let row = schedule::Model {
        deployment_id: Stored(deployment),
        start_at: schedule.start.map(|at| at.0),
        windows: json!(windows).to_string(),
        spread_us: i64::try_from(schedule.spread.as_micros()).unwrap_or(i64::MAX),
        deadline: schedule.deadline.map(|at| at.0),
        deadline_passed: false,
        selector: terms.dynamic.as_ref().map(ToString::to_string),
        penalty_after: i32::try_from(terms.penalty_after).unwrap_or(i32::MAX),
    };
    insert_all::<schedule::Entity>(&tx.db, vec![row], None).await?;
    Ok(())
}
