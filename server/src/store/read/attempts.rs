//! Attempts as rows have them: their key, their open states, and the facts that the rules look at.

use std::time::Duration;

use kernex_proto::ids::{AttemptId, DeviceId, TargetId};
use sea_orm::{ColumnTrait, Condition, DbErr, QueryFilter, sea_query::Expr};

use crate::{
    clock::Timestamp,
    domain::attempt::{Attempt, Ending, FailureReason, Sent, State, Step},
    store::{
        db::{
            error::Result,
            values::{parse_name, unsigned},
        },
        entity::{attempt, stored::Stored},
        read::scope::View,
    },
};

/// The state that a row names.
pub(crate) fn state(text: &str) -> Result<State, DbErr> {
    parse_name("state", text, State::parse)
}

/// The reason that a row names, if it has one.
pub(crate) fn reason(text: Option<&str>) -> Result<Option<FailureReason>, DbErr> {
    let reason = |text| parse_name("reason", text, FailureReason::parse);
    text.map(reason).transpose()
}

/// The step that a row names, if it has one.
pub(crate) fn step(text: Option<&str>) -> Result<Option<Step>, DbErr> {
    let step = |text| parse_name("step", text, Step::parse);
    text.map(step).transpose()
}

/// Names of the states an attempt can still change in.
pub(crate) fn open_states() -> impl Iterator<Item = &'static str> {
    State::ALL
        .iter()
        .filter(|state| state.is_open())
        .map(|state| state.as_str())
}

/// Likewise without `held`: such an attempt may be under way on its device.
pub(crate) fn opened_states() -> impl Iterator<Item = &'static str> {
    open_states().filter(|state| *state != State::Held.as_str())
}

/// Selects unresolved attempts. Written as the partial indexes have it: with a bound value SQLite
/// would plan the statement again each time, because the index may not serve another value.
pub(crate) fn is_unresolved() -> Expr {
    attempt::Column::Unresolved.into_expr()
}

/// The attempt of a row.
pub(crate) fn id(row: &attempt::Model) -> AttemptId {
    AttemptId {
        target: row.target_id.0,
        number: u32::try_from(row.number).unwrap_or(0),
    }
}

/// The facts of a row that the rules look at.
pub(crate) fn facts(row: &attempt::Model) -> Result<Attempt, DbErr> {
    let late_reason = reason(row.late_reason.as_deref())?;
    let late = row.late_state.as_deref().map(state).transpose()?;
    let state = state(&row.state)?;
    Ok(Attempt {
        state,
        untaken: state == State::Sent && Sent(row.sent_epoch).is_taken_back(),
        reason: reason(row.reason.as_deref())?,
        step: step(row.step.as_deref())?,
        bytes: (unsigned(row.bytes_done), unsigned(row.bytes_total)),
        unresolved: row.unresolved,
        stop_requested: row.stop_requested,
        stop_going_back: row.stop_going_back,
        stopped: row.stopped,
        answered: row.answered,
        late: late.map(|state| match state {
            State::Succeeded => Ending::Succeeded,
            State::Failed => Ending::Failed(late_reason.unwrap_or(FailureReason::Internal)),
            _ => Ending::Cancelled,
        }),
        delivery_deadline: Timestamp(row.delivery_deadline),
        execution: Duration::from_micros(unsigned(row.execution_us)),
        execution_deadline: row.execution_deadline.map(Timestamp),
        accepted_at: row.accepted_at.map(Timestamp),
        closed_at: row.closed_at.map(Timestamp),
    })
}

/// How an attempt is named in its table.
pub(crate) fn key(id: AttemptId) -> (Stored<TargetId>, i32) {
    (Stored(id.target), i32::try_from(id.number).unwrap_or(0))
}

impl View {
    /// Whether a device has answered all it was given.
    pub async fn has_answered(&self, device: DeviceId) -> Result<bool> {
        let open = self
            .rows::<attempt::Entity>()
            .filter(unresolved_of(Stored(device)))
            .one(self.reader())
            .await?;
        Ok(open.is_none())
    }
}

pub(crate) fn unresolved_of(device: Stored<DeviceId>) -> Condition {
    Condition::all()
        .add(attempt::Column::DeviceId.eq(device))
        .add(is_unresolved())
}
