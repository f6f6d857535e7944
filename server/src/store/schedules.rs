//! Schedules between rows and rules, and the deployments whose deadline has come.

use std::{collections::BTreeMap, time::Duration};

use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QueryOrder,
    QuerySelect,
    sea_query::{Expr, ExprTrait},
};
use serde_json::json;
use uuid::Uuid;

use super::{
    Result, StoreError,
    attempts::{Batch, is_unresolved, open_states, unsigned},
    entity::{attempt, deployment, schedule},
    progress::finish_deployments,
    transaction::{Deciding, ID_CHUNK, Tx, insert_all},
};
use crate::{
    clock::Timestamp,
    domain::{
        attempt::Closing,
        schedule::{Schedule, Window},
        selector::Selector,
    },
};

/// Deployments whose deadline is looked at in one transaction.
const OVERDUE_CHUNK: u64 = 20;

/// What an order says beside its devices and its phases.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Terms {
    /// When its targets may begin.
    pub schedule: Schedule,
    /// Its deadline as a time after the start, where it is not given as an instant.
    pub deadline_after: Option<Duration>,
    /// Devices that come to match this later are taken in too.
    pub dynamic: Option<Selector>,
    /// Failures in a row after which a device is left out; 0 for never.
    pub penalty_after: u32,
}

impl Terms {
    /// The schedule of an order that is given now, or what is wrong with it. An attempt waits at most `delivery`.
    pub(super) fn schedule_at(&self, now: Timestamp, delivery: Duration) -> Result<Schedule> {
        let mut schedule = self.schedule.clone();
        let start = schedule.start.map_or(now, |start| start.max(now));
        if schedule.deadline.is_none() {
            schedule.deadline = self.deadline_after.map(|after| start.plus(after));
        }
        let fault = schedule.fault(now).or_else(|| {
            let opens = schedule.next_opening(start)?;
            let why = "none opens before the delivery timeout is over; a longer one helps";
            (opens >= start.plus(delivery)).then(|| ("schedule.windows", why.to_owned()))
        });
        match fault {
            Some((field, why)) => Err(StoreError::Invalid { field, why }),
            None => Ok(schedule),
        }
    }

    /// What was asked for, in words that are the same each time.
    pub(super) fn fingerprint(&self) -> String {
        let schedule = &self.schedule;
        let windows: Vec<String> = schedule.windows.iter().map(ToString::to_string).collect();
        format!(
            "{:?} {windows:?} {:?} {:?} {:?} {}",
            schedule.start,
            schedule.spread,
            schedule.deadline,
            self.deadline_after,
            self.dynamic.is_some()
        )
    }
}

/// Writes the terms of a new deployment down, where it has any.
pub(super) async fn insert(
    tx: &Tx,
    deployment: Uuid,
    terms: &Terms,
    schedule: &Schedule,
) -> Result<()> {
    if *schedule == Schedule::default() && terms.dynamic.is_none() {
        return Ok(());
    }
    let windows: Vec<String> = schedule.windows.iter().map(ToString::to_string).collect();
    let row = schedule::Model {
        deployment_id: deployment,
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

/// Rows of those deployments that have one.
pub(super) async fn rows_of<C: ConnectionTrait>(
    db: &C,
    deployments: &[Uuid],
) -> Result<BTreeMap<Uuid, schedule::Model>> {
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
pub(super) async fn find<C: ConnectionTrait>(
    db: &C,
    deployment: Uuid,
) -> Result<Option<schedule::Model>> {
    Ok(schedule::Entity::find_by_id(deployment).one(db).await?)
}

/// Whether a deployment may still take devices in.
pub(super) fn lingers(row: &deployment::Model, schedule: Option<&schedule::Model>) -> bool {
    let takes = schedule.is_some_and(|row| row.selector.is_some() && !row.deadline_passed);
    takes && row.cancelled_at.is_none()
}

/// Whether the start of a deployment is still to come.
pub(super) async fn waits(tx: &Tx, deployment: Uuid) -> Result<bool> {
    let row = find(&tx.db, deployment).await?;
    let start = row.and_then(|row| row.start_at);
    Ok(start.is_some_and(|start| start > tx.now.0))
}

/// A schedule as it is stored; an error says what cannot be read.
pub(super) fn read(
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
pub(super) fn from_row(row: &schedule::Model) -> Result<Terms> {
    let unreadable = |why: String| {
        DbErr::Type(format!(
            "the terms of deployment {}: {why}",
            row.deployment_id
        ))
    };
    let dynamic = row.selector.as_deref().map(Selector::parse).transpose();
    Ok(Terms {
        schedule: read(row.start_at, &row.windows, row.spread_us, row.deadline)
            .map_err(unreadable)?,
        deadline_after: None,
        dynamic: dynamic.map_err(|wrong| unreadable(wrong.to_string()))?,
        penalty_after: u32::try_from(row.penalty_after).unwrap_or(0),
    })
}

/// Whether the deadline has not been acted upon, in the words of the index that has only those; a bound value would not be
/// taken for them.
pub(super) fn is_pending() -> Expr {
    schedule::Column::DeadlinePassed.into_expr().not()
}

/// Closes what is still open in deployments whose deadline has come; says how many attempts changed, and whether there is
/// more to look at.
pub(super) async fn close_overdue(tx: &Deciding) -> Result<(u64, bool)> {
    let Some(now) = tx.time() else {
        return Ok((0, false));
    };
    let overdue: Vec<Uuid> = schedule::Entity::find()
        .select_only()
        .column(schedule::Column::DeploymentId)
        .filter(schedule::Column::Deadline.lte(now.0))
        .filter(is_pending())
        .order_by_asc(schedule::Column::Deadline)
        .limit(OVERDUE_CHUNK)
        .into_tuple()
        .all(&tx.db)
        .await?;
    if overdue.is_empty() {
        return Ok((0, false));
    }
    // Before the rest, because a deployment that takes devices in finishes only once its deadline has passed.
    schedule::Entity::update_many()
        .col_expr(schedule::Column::DeadlinePassed, Expr::value(true))
        .filter(schedule::Column::DeploymentId.is_in(overdue.clone()))
        .exec(&tx.db)
        .await?;
    let mut batch = Batch::deciding(tx);
    let open = Condition::all()
        .add(attempt::Column::DeploymentId.is_in(overdue.clone()))
        .add(is_unresolved())
        .add(attempt::Column::State.is_in(open_states()));
    batch.load(open, None).await?;
    for (_, entry) in batch.iter_mut() {
        let _ = entry.close(tx, Closing::Overdue, tx.now);
    }
    let closed = batch.save().await?;
    let more = overdue.len() as u64 == OVERDUE_CHUNK;
    finish_deployments(tx, overdue.into_iter().collect()).await?;
    Ok((closed, more))
}
