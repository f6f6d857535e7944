//! Inserts the phases of a new deployment.

use kernex_proto::ids::DeploymentId;

use crate::{
    domain::rollout::{Amount, Budget, Percent, Rollout},
    store::{
        db::{error::Result, sizes::insert_all, transaction::Tx, values::signed},
        entity::{phase, stored::Stored},
    },
};

pub(crate) async fn insert_phases(
    tx: &Tx,
    deployment: DeploymentId,
    rollout: &Rollout,
) -> Result<()> {
    let rows = (1..).zip(&rollout.phases).map(|(number, phase)| {
        let (size_count, size_points) = columns(phase.size);
        let (failures_count, failures_points) = columns(phase.max_failures);
        phase::Model {
            deployment_id: Stored(deployment),
            number,
            size_count,
            size_points,
            success_points: phase.success.map(points),
            failures_count,
            failures_points,
            soak_us: i64::try_from(phase.soak.as_micros()).unwrap_or(i64::MAX),
            opened_at: None,
            passed_at: None,
            soaked_at: None,
            forgiven: 0,
        }
    });
    insert_all::<phase::Entity>(&tx.db, rows.collect(), None).await?;
    Ok(())
}

pub(crate) fn budgets_text(budgets: &[Budget]) -> String {
    let stored: serde_json::Map<_, _> = budgets
        .iter()
        .map(|budget| (budget.label.clone(), budget.max.into()))
        .collect();
    serde_json::Value::Object(stored).to_string()
}

fn columns(amount: Amount) -> (Option<i64>, Option<i32>) {
    match amount {
        Amount::Count(count) => (Some(signed(count.into())), None),
        Amount::Share(share) => (None, Some(points(share))),
    }
}

pub(crate) fn points(share: Percent) -> i32 {
    // At most ten thousand, so it fits.
    share.points() as i32
}
