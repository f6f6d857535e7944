//! Grants further runs of attempts whose `hooks.pre` asked for more time.
//!
//! The agent names the run that asks. The next one is granted when its time has come. A grant that
//! was lost is repeated: the agent still waits, and says so in its next session. It runs each
//! number once, so a repetition does no harm.

use kernex_proto::{
    ids::{AttemptId, TargetId},
    v1,
};
use sea_orm::{
    ColumnTrait, EntityTrait, QueryFilter,
    sea_query::{Expr, OnConflict},
};

use crate::{
    clock::Timestamp,
    domain::attempt::{Deferral, next_run},
    store::{
        db::{error::Result, sizes::insert_all, transaction::Tx, values::head},
        entity::{attempt, run, stored::Stored},
        read::attempts::key,
        write::report::MAX_MESSAGE,
    },
};

/// Shows watchers that an attempt waits for a run, or waits no longer. They read attempts by the
/// time of their last change.
pub(crate) async fn show_change(tx: &Tx, (target, number): (Stored<TargetId>, i32)) -> Result<()> {
    attempt::Entity::update_many()
        .col_expr(attempt::Column::UpdatedAt, Expr::value(tx.now.0))
        .filter(attempt::Column::TargetId.eq(target))
        .filter(attempt::Column::Number.eq(number))
        .exec(&tx.db)
        .await?;
    tx.touch();
    Ok(())
}

/// Notes that attempts wait for their next runs.
pub(crate) async fn defer(tx: &Tx, asked: &[(AttemptId, v1::Deferred)]) -> Result<()> {
    for (attempt, deferred) in asked {
        let (target_id, number) = key(*attempt);
        let known = run::Entity::find_by_id((target_id, number))
            .one(&tx.db)
            .await?
            .map(|row| {
                (
                    u32::try_from(row.run).unwrap_or(0),
                    row.due_at.map(Timestamp),
                )
            });
        let Some((granted, due)) = next_run(known, Deferral::from(deferred), tx.now) else {
            continue;
        };
        let row = run::Model {
            target_id,
            number,
            run: i32::try_from(granted).unwrap_or(i32::MAX),
            due_at: Some(due.0),
            message: head(&deferred.message, MAX_MESSAGE),
        };
        let newer = OnConflict::columns([run::Column::TargetId, run::Column::Number])
            .update_columns([run::Column::Run, run::Column::DueAt, run::Column::Message])
            .to_owned();
        insert_all::<run::Entity>(&tx.db, vec![row], Some(newer)).await?;
        show_change(tx, (target_id, number)).await?;
    }
    Ok(())
}
