//! Which devices failed a bundle so often in a row that only an explicit retry gives it to them.
//! Computed from their attempts each time, never stored.

use std::collections::BTreeMap;

use kernex_proto::ids::DeviceId;
use sea_orm::{
    ConnectionTrait, DbErr, FromQueryResult,
    sea_query::{Expr, ExprTrait, Query, TableRef},
};

use crate::{
    clock::Timestamp,
    domain::{
        attempt::{Ending, FailureReason, State},
        penalty::{PastOutcome, Penalty, penalty},
    },
    store::{
        db::{
            error::Result,
            sizes::{ID_CHUNK, padded},
        },
        entity::{attempt, stored::Stored, target},
        read::{
            attempts,
            joined::{is_of_target, read_rows},
        },
    },
};

#[derive(FromQueryResult)]
struct Row {
    device_id: Stored<DeviceId>,
    state: String,
    reason: Option<String>,
    closed_at: Option<i64>,
    late_state: Option<String>,
    late_reason: Option<String>,
    late_at: Option<i64>,
}

/// Those of these devices that failed these bytes at least `after` times in a row, whatever the
/// bundle was called.
pub(crate) async fn penalties<C: ConnectionTrait>(
    db: &C,
    digest: &str,
    devices: &[Stored<DeviceId>],
    after: u32,
) -> Result<BTreeMap<Stored<DeviceId>, Penalty>> {
    let mut penalties = BTreeMap::new();
    if after == 0 {
        return Ok(penalties);
    }
    for chunk in devices.chunks(ID_CHUNK) {
        let mut past = BTreeMap::<Stored<DeviceId>, Vec<PastOutcome>>::new();
        let mut query = Query::select();
        for column in [
            attempt::Column::DeviceId,
            attempt::Column::State,
            attempt::Column::Reason,
            attempt::Column::ClosedAt,
            attempt::Column::LateState,
            attempt::Column::LateReason,
            attempt::Column::LateAt,
        ] {
            query.column(("a", column));
        }
        query
            .from_as(target::Entity, "t")
            .inner_join(TableRef::from(attempt::Entity).alias("a"), is_of_target())
            .and_where(Expr::col(("t", target::Column::Digest)).eq(digest))
            .and_where(
                Expr::col(("t", target::Column::DeviceId)).is_in(padded(chunk.iter().copied())),
            )
            .and_where(Expr::col(("a", attempt::Column::ClosedAt)).is_not_null());
        for row in read_rows::<Row, _>(db, &query).await? {
            let theirs = past.entry(row.device_id).or_default();
            theirs.extend(fact(
                row.closed_at,
                Some(&row.state),
                row.reason.as_deref(),
            )?);
            theirs.extend(fact(
                row.late_at,
                row.late_state.as_deref(),
                row.late_reason.as_deref(),
            )?);
        }
        let found = past
            .into_iter()
            .filter_map(|(device, past)| Some((device, penalty(past, after)?)));
        penalties.extend(found);
    }
    Ok(penalties)
}

/// What the end of an attempt says about the bundle; none where it says nothing.
fn fact(
    at: Option<i64>,
    state: Option<&str>,
    reason: Option<&str>,
) -> Result<Option<PastOutcome>, DbErr> {
    let (Some(at), Some(state)) = (at, state) else {
        return Ok(None);
    };
    let ending = match attempts::state(state)? {
        State::Succeeded => Ending::Succeeded,
        State::Failed => {
            Ending::Failed(attempts::reason(reason)?.unwrap_or(FailureReason::Internal))
        }
        State::Held
        | State::Pending
        | State::Sent
        | State::Accepted
        | State::Running
        | State::Cancelled
        | State::Expired
        | State::Superseded => return Ok(None),
    };
    Ok(Some(PastOutcome {
        at: Timestamp(at),
        ending,
    }))
}
