//! Writes the events of a transaction, as its last statements and in commit order.

use futures::future::BoxFuture;
use sea_orm::{
    ConnectionTrait, DatabaseTransaction, DbErr,
    sea_query::{Expr, ExprTrait, Query},
};

use crate::{
    clock::Timestamp,
    store::{
        db::{error::Result, new_event::NewEvent, sizes::insert_all},
        entity::{cluster, event, stored::Stored},
    },
};

/// Writes events under the next cursors. Writers are serial, so cursors grow in the order of
/// commits.
pub(crate) fn log_events<'a>(
    db: &'a DatabaseTransaction,
    now: Timestamp,
    events: &'a [NewEvent],
) -> BoxFuture<'a, Result<()>> {
    Box::pin(write_events(db, now, events))
}

async fn write_events(db: &DatabaseTransaction, now: Timestamp, events: &[NewEvent]) -> Result<()> {
    let count = events.len() as i64;
    let advance = Query::update()
        .table(cluster::Entity)
        .value(
            cluster::Column::EventCursor,
            Expr::col(cluster::Column::EventCursor).add(count),
        )
        .and_where(Expr::col(cluster::Column::Id).eq(1))
        .returning_col(cluster::Column::EventCursor)
        .to_owned();
    let row = db.query_one(&advance).await?;
    let row = row
        .ok_or_else(|| DbErr::RecordNotFound("the cluster row; was the schema migrated?".into()))?;
    let first = row.try_get::<i64>("", "event_cursor")? - count + 1;
    let rows = events
        .iter()
        .enumerate()
        .map(|(index, event)| event::Model {
            cursor: first + index as i64,
            at: now.0,
            kind: event.kind.clone(),
            device_id: event.subject.device().map(Stored),
            deployment_id: event.subject.deployment().map(Stored),
            detail: event.detail.to_string(),
        });
    insert_all::<event::Entity>(db, rows.collect(), None).await?;
    Ok(())
}
