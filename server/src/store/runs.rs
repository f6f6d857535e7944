//! Further runs of attempts whose `hooks.pre` asked to be asked again later.
//!
//! The agent says which run asks; the next one is granted when its time has come. A grant that was lost is repeated when
//! the agent, still waiting, says so again in its next session: it takes each run once, so repeating does no harm.

use std::time::Duration;

use kernex_proto::{ids::AttemptId, v1};
use sea_orm::{
    ColumnTrait, EntityTrait, QueryFilter,
    sea_query::{Expr, OnConflict},
};

use super::{
    Result, Store,
    dispatch::key,
    entity::run,
    transaction::{Tx, insert_all},
};
use crate::clock::Timestamp;

/// Longest pause a device may ask for; its execution deadline usually comes first.
const LONGEST_PAUSE: Duration = Duration::from_secs(24 * 3600);

/// What is to be written about the next run; `None` when it waits already. Pure.
fn next(
    known: Option<(u32, Option<Timestamp>)>,
    deferred: &v1::Deferred,
    now: Timestamp,
) -> Option<(u32, Timestamp)> {
    let wanted = deferred.run.max(1).saturating_add(1);
    match known {
        // It was pushed, but the agent still waits for it: once more, at once.
        Some((run, None)) if run >= wanted => Some((wanted, now)),
        Some((run, Some(_))) if run >= wanted => None,
        _ => {
            let pause = Duration::from_millis(deferred.retry_after_ms).min(LONGEST_PAUSE);
            Some((wanted, now.plus(pause)))
        }
    }
}

/// Notes that an attempt waits for its next run.
pub(super) async fn defer(tx: &Tx, asked: &[(AttemptId, v1::Deferred)]) -> Result<()> {
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
        let Some((granted, due)) = next(known, deferred, tx.now) else {
            continue;
        };
        let row = run::Model {
            target_id,
            number,
            run: i32::try_from(granted).unwrap_or(i32::MAX),
            due_at: Some(due.0),
        };
        let newer = OnConflict::columns([run::Column::TargetId, run::Column::Number])
            .update_columns([run::Column::Run, run::Column::DueAt])
            .to_owned();
        insert_all::<run::Entity>(&tx.db, vec![row], Some(newer)).await?;
    }
    Ok(())
}

impl Store {
    /// Notes runs that were pushed. Written behind.
    pub async fn mark_runs_sent(&self, sent: &[(AttemptId, u32)]) -> Result<()> {
        self.write(|tx| async move {
            for (attempt, granted) in sent {
                let (target, number) = key(*attempt);
                run::Entity::update_many()
                    .col_expr(run::Column::DueAt, Expr::value(None::<i64>))
                    .filter(run::Column::TargetId.eq(target))
                    .filter(run::Column::Number.eq(number))
                    .filter(run::Column::Run.eq(i32::try_from(*granted).unwrap_or(i32::MAX)))
                    .exec(&tx.db)
                    .await?;
            }
            Ok(())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_run_is_granted_after_its_pause_and_again_only_when_it_was_lost() {
        let now = Timestamp(1_000_000);
        let later = Timestamp(3_000_000);
        let asks = |run| v1::Deferred {
            run,
            retry_after_ms: 2_000,
            ..v1::Deferred::default()
        };
        let table = [
            (None, 1, Some((2, later))),
            // An agent that does not count says 0 for its first.
            (None, 0, Some((2, later))),
            (Some((2, Some(later))), 1, None),
            (Some((2, None)), 1, Some((2, now))),
            (Some((2, None)), 2, Some((3, later))),
            // A restored database knows less than the agent.
            (Some((2, Some(later))), 5, Some((6, later))),
        ];
        for (known, run, wanted) in table {
            assert_eq!(next(known, &asks(run), now), wanted, "{known:?} {run}");
        }
        let forever = v1::Deferred {
            run: 1,
            retry_after_ms: u64::MAX,
            ..v1::Deferred::default()
        };
        assert_eq!(
            next(None, &forever, now),
            Some((2, now.plus(LONGEST_PAUSE)))
        );
    }
}
