//! Schedules of deployments: from rows to the types of the domain.

use std::{collections::BTreeMap, time::Duration};

use kernex_proto::ids::DeploymentId;
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter,
    sea_query::{Expr, ExprTrait},
};

use crate::{
    clock::Timestamp,
    domain::{
        schedule::{Schedule, Window},
        selector::Selector,
    },
    store::{
        db::{error::Result, sizes::ID_CHUNK, transaction::Tx, values::unsigned},
        entity::{deployment, schedule, stored::Stored},
        read::new_deployment::Terms,
    },
};

/// Rows of those deployments that have one.
pub(crate) async fn rows_of<C: ConnectionTrait>(
    db: &C,
    deployments: &[Stored<DeploymentId>],
) -> Result<BTreeMap<Stored<DeploymentId>, schedule::Model>> {
    let mut found = BTreeMap::new();
    for chunk in deployments.chunks(ID_CHUNK) {
        let rows = schedule::Entity::find()
            .filter(schedule::Column::DeploymentId.is_in(chunk.to_vec()))
            .all(db)
            .await?;
        found.extend(rows.into_iter().map(|row| (row.deployment_id, row)));
    }
    Ok(found)
}

/// The row of a deployment that has one.
pub(crate) async fn find<C: ConnectionTrait>(
    db: &C,
    deployment: DeploymentId,
) -> Result<Option<schedule::Model>> {
    Ok(schedule::Entity::find_by_id(Stored(deployment))
        .one(db)
        .await?)
}

/// Whether a deployment may still add devices.
pub(crate) fn accepts_devices(row: &deployment::Model, schedule: Option<&schedule::Model>) -> bool {
    let takes = schedule.is_some_and(|row| row.selector.is_some() && !row.deadline_passed);
    takes && row.cancelled_at.is_none()
}

/// Whether the start of a deployment is still to come.
pub(crate) async fn waits(tx: &Tx, deployment: DeploymentId) -> Result<bool> {
    let row = find(&tx.db, deployment).await?;
    let start = row.and_then(|row| row.start_at);
    Ok(start.is_some_and(|start| start > tx.now.0))
}

/// A schedule from its columns. The error says what cannot be read.
pub(crate) fn read(
    start: Option<i64>,
    windows: &str,
    spread_us: i64,
    deadline: Option<i64>,
) -> Result<Schedule, String> {
    let texts: Vec<String> = serde_json::from_str(windows).map_err(|error| error.to_string())?;
    let windows = texts
        .iter()
        .map(|text| Window::parse(text).map_err(|wrong| format!("the window `{text}`: {wrong}")));
    Ok(Schedule {
        start: start.map(Timestamp),
        windows: windows.collect::<Result<_, _>>()?,
        spread: Duration::from_micros(unsigned(spread_us)),
        deadline: deadline.map(Timestamp),
    })
}

/// The terms in a row.
pub(crate) fn from_row(row: &schedule::Model) -> Result<Terms> {
    let unreadable = |why: String| {
        DbErr::Type(format!(
            "the terms of deployment {}: {why}",
            row.deployment_id
        ))
    };
    let dynamic = row.selector.as_deref().map(Selector::parse).transpose();
    Ok(Terms {
        // It stands with the deployment.
        name: String::new(),
        schedule: read(row.start_at, &row.windows, row.spread_us, row.deadline)
            .map_err(unreadable)?,
        deadline_after: None,
        dynamic: dynamic.map_err(|wrong| unreadable(wrong.to_string()))?,
        penalty_after: u32::try_from(row.penalty_after).unwrap_or(0),
    })
}

/// Selects schedules whose deadline was not acted upon. The condition is written as in the partial
/// index: with a bound value the database would not use that index.
pub(crate) fn is_pending() -> Expr {
    schedule::Column::DeadlinePassed.into_expr().not()
}
