//! Closes attempts whose deadline has passed.

use kernex_proto::ids::DeploymentId;
use sea_orm::{
    ColumnTrait, Condition, EntityTrait, QueryFilter, QueryOrder, QuerySelect, sea_query::Expr,
};

use crate::{
    crash::Act,
    domain::attempt::{Closing, State},
    store::{
        db::{error::Result, store::Store, transaction::Deciding},
        entity::{attempt, schedule, stored::Stored},
        read::{
            attempts::{is_unresolved, open_states},
            schedules::is_pending,
        },
        write::{change_attempts::Batch, finish::finish_deployments},
    },
};

/// Deployments past their deadline that one transaction closes.
const OVERDUE_CHUNK: u64 = 20;

/// Attempts that one transaction closes.
const EXPIRE_CHUNK: u64 = 1000;

impl Store {
    /// Closes attempts whose deadline has passed, and returns their number. Does nothing while the
    /// clock is not trusted.
    pub async fn expire_due(&self) -> Result<u64> {
        let mut expired = 0;
        loop {
            let (closed, more) = self
                .decide(|tx| async move { close_overdue(&tx).await })
                .await?;
            expired += closed;
            if !more {
                break;
            }
        }
        loop {
            let chunk = self
                .decide_as(
                    Act::CommitExpiry,
                    |tx| async move { expire_chunk(&tx).await },
                )
                .await?;
            expired += chunk;
            if chunk < EXPIRE_CHUNK {
                return Ok(expired);
            }
        }
    }
}

async fn expire_chunk(tx: &Deciding) -> Result<u64> {
    // Read in the transaction: the clock may have jumped while it waited for its turn.
    let Some(now) = tx.time() else {
        return Ok(0);
    };
    let waiting = Condition::all()
        .add(
            attempt::Column::State
                .is_in([State::Held, State::Pending, State::Sent].map(State::as_str)),
        )
        .add(attempt::Column::DeliveryDeadline.lte(now.0));
    let working = Condition::all()
        .add(attempt::Column::State.is_in([State::Accepted, State::Running].map(State::as_str)))
        .add(attempt::Column::ExecutionDeadline.lte(now.0));
    let past = Condition::all()
        .add(is_unresolved())
        .add(Condition::any().add(waiting).add(working));
    let mut batch = Batch::deciding(tx);
    batch.load(past, Some(EXPIRE_CHUNK)).await?;
    for (_, entry) in batch.iter_mut() {
        let _ = entry.close(tx, Closing::Tick, now);
    }
    batch.save().await
}

/// Closes the open attempts of deployments whose deadline has passed. Returns how many attempts
/// changed, and whether more deployments wait.
pub(crate) async fn close_overdue(tx: &Deciding) -> Result<(u64, bool)> {
    let Some(now) = tx.time() else {
        return Ok((0, false));
    };
    let overdue: Vec<Stored<DeploymentId>> = schedule::Entity::find()
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
    // First, because a deployment that accepts devices does not finish before its deadline has
    // passed.
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
    finish_deployments(tx, overdue.into_iter().map(|id| id.0).collect()).await?;
    Ok((closed, more))
}
