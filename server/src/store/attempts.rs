//! Attempts between rows and rules: loaded together, changed by `domain::attempt::apply` only, written back together by
//! compare-and-set, with their events and with the deployments they finish.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use kernex_proto::ids::{AttemptId, TargetId};
use sea_orm::{
    ActiveModelTrait, ActiveValue, ColumnTrait, Condition, DbErr, EntityTrait, ExprTrait,
    IntoActiveModel, Iterable, QueryFilter, QuerySelect,
    sea_query::{Alias, Expr, OnConflict, Query},
};
use serde_json::json;
use uuid::Uuid;

use super::{
    Result,
    dispatch::key,
    entity::attempt,
    progress::finish_deployments,
    transaction::{Deciding, ID_CHUNK, Tx, insert_counted, padded},
};
use crate::{
    clock::Timestamp,
    domain::attempt::{
        Attempt, Closing, Ending, Event, Fact, Reason, Sent, State, Step, Verdict, apply,
    },
    in_flight::Decision,
};

/// Names of the states an attempt can still change in.
pub(crate) fn open_states() -> impl Iterator<Item = &'static str> {
    State::ALL
        .iter()
        .filter(|state| state.is_open())
        .map(|state| state.as_str())
}

/// Which attempts are unresolved, in the words of the indexes that have only those. With a bound value SQLite would have to plan
/// the statement again each time, because the index may not serve another value.
pub(crate) fn is_unresolved() -> Expr {
    attempt::Column::Unresolved.into_expr()
}

/// The attempt of a row.
fn id(row: &attempt::Model) -> AttemptId {
    AttemptId {
        target: TargetId(row.target_id),
        number: u32::try_from(row.number).unwrap_or(0),
    }
}

/// Reads a name this program wrote; anything else is a database it did not write.
pub(crate) fn named<T>(
    what: &str,
    text: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<T, DbErr> {
    parse(text).ok_or_else(|| DbErr::Type(format!("{what} `{text}` is unknown to this version")))
}

/// A number the contract has without a sign, as the database has it.
pub(crate) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// And back.
pub(crate) fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// The facts of a row that the rules look at.
pub(crate) fn facts(row: &attempt::Model) -> Result<Attempt, DbErr> {
    let reason = |text: &Option<String>| {
        text.as_deref()
            .map(|text| named("reason", text, Reason::parse))
            .transpose()
    };
    let late_reason = reason(&row.late_reason)?;
    let late = row
        .late_state
        .as_deref()
        .map(|text| named("state", text, State::parse))
        .transpose()?;
    let state = named("state", &row.state, State::parse)?;
    Ok(Attempt {
        state,
        untaken: state == State::Sent && Sent(row.sent_epoch).is_taken_back(),
        reason: reason(&row.reason)?,
        step: row
            .step
            .as_deref()
            .map(|text| named("step", text, Step::parse))
            .transpose()?,
        bytes: (unsigned(row.bytes_done), unsigned(row.bytes_total)),
        unresolved: row.unresolved,
        stop_requested: row.stop_requested,
        stop_going_back: row.stop_going_back,
        stopped: row.stopped,
        answered: row.answered,
        late: late.map(|state| match state {
            State::Succeeded => Ending::Succeeded,
            State::Failed => Ending::Failed(late_reason.unwrap_or(Reason::Internal)),
            _ => Ending::Cancelled,
        }),
        delivery_deadline: Timestamp(row.delivery_deadline),
        execution: Duration::from_micros(unsigned(row.execution_us)),
        execution_deadline: row.execution_deadline.map(Timestamp),
        accepted_at: row.accepted_at.map(Timestamp),
        closed_at: row.closed_at.map(Timestamp),
    })
}

fn write_facts(row: &mut attempt::Model, facts: &Attempt, now: Timestamp) {
    row.state = facts.state.as_str().to_owned();
    row.reason = facts.reason.map(|reason| reason.as_str().to_owned());
    row.step = facts.step.map(|step| step.as_str().to_owned());
    (row.bytes_done, row.bytes_total) = (signed(facts.bytes.0), signed(facts.bytes.1));
    row.unresolved = facts.unresolved;
    row.stop_requested = facts.stop_requested;
    if facts.stop_going_back && !row.stop_going_back {
        // It is another order than the one that was sent.
        row.stop_sent_epoch = 0;
    }
    row.stop_going_back = facts.stop_going_back;
    row.stopped = facts.stopped;
    row.answered = facts.answered;
    if let Some(late) = facts.late
        && row.late_at.is_none()
    {
        row.late_state = Some(late.state().as_str().to_owned());
        row.late_reason = late.reason().map(|reason| reason.as_str().to_owned());
        row.late_at = Some(now.0);
    }
    row.delivery_deadline = facts.delivery_deadline.0;
    row.execution_deadline = facts.execution_deadline.map(|at| at.0);
    row.accepted_at = facts.accepted_at.map(|at| at.0);
    row.closed_at = facts.closed_at.map(|at| at.0);
    row.updated_at = now.0;
}

/// A row of a new attempt.
pub(crate) struct NewAttempt<'a> {
    pub(crate) target: Uuid,
    pub(crate) number: i32,
    pub(crate) deployment: Uuid,
    pub(crate) device: Uuid,
    pub(crate) bundle_name: &'a str,
    pub(crate) generation: i64,
    pub(crate) facts: Attempt,
}

impl NewAttempt<'_> {
    pub(crate) fn into_row(self, now: Timestamp) -> attempt::Model {
        let mut row = attempt::Model {
            target_id: self.target,
            number: self.number,
            deployment_id: self.deployment,
            device_id: self.device,
            bundle_name: self.bundle_name.to_owned(),
            generation: self.generation,
            revision: 1,
            state: String::new(),
            unresolved: true,
            reason: None,
            message: String::new(),
            step: None,
            bytes_done: 0,
            bytes_total: 0,
            exit_code: None,
            output_tail: String::new(),
            duration_ms: None,
            active_version: None,
            active_digest: None,
            previous_digest: None,
            stop_requested: false,
            stop_going_back: false,
            stopped: false,
            sent_epoch: 0,
            stop_sent_epoch: 0,
            delivery_deadline: self.facts.delivery_deadline.0,
            execution_us: i64::try_from(self.facts.execution.as_micros()).unwrap_or(i64::MAX),
            execution_deadline: None,
            created_at: now.0,
            updated_at: now.0,
            accepted_at: None,
            closed_at: None,
            answered: false,
            late_state: None,
            late_reason: None,
            late_message: None,
            late_exit_code: None,
            late_output_tail: None,
            late_at: None,
        };
        write_facts(&mut row, &self.facts, now);
        row
    }
}

/// Inserts attempts that differ from one another only in their targets, which are there already: the database copies the
/// rest from `alike` and from the targets.
pub(crate) async fn insert_alike(tx: &Tx, alike: attempt::Model, targets: &[Uuid]) -> Result<()> {
    use attempt::Column as C;
    let alike = alike.into_active_model();
    for chunk in targets.chunks(ID_CHUNK) {
        let mut rows = Query::select();
        for column in C::iter() {
            match column {
                C::TargetId => rows.column(("t", "id")),
                C::DeviceId | C::Generation => rows.column(("t", column)),
                _ => match alike.get(column) {
                    ActiveValue::Set(value) | ActiveValue::Unchanged(value) => rows.expr(value),
                    ActiveValue::NotSet => continue,
                },
            };
        }
        rows.from_as("targets", "t")
            .and_where(Expr::col(("t", "id")).is_in(padded(chunk.iter().copied())));
        let insert = Query::insert()
            .into_table(attempt::Entity)
            .columns(C::iter())
            .select_from(rows)
            .map_err(|error| DbErr::Custom(error.to_string()))?
            .to_owned();
        tx.db.later(&insert).await?;
    }
    Ok(())
}

/// One attempt within a [`Batch`].
pub(crate) struct Entry {
    /// The row as it will be written.
    pub(crate) row: attempt::Model,
    facts: Attempt,
    before: State,
    was_unresolved: bool,
    was_late: bool,
    dirty: bool,
}

/// Attempts that change together.
pub(crate) struct Batch<'a> {
    tx: &'a Tx,
    decision: Option<&'a Decision>,
    entries: BTreeMap<(Uuid, i32), Entry>,
}

impl<'a> Batch<'a> {
    /// Nothing loaded yet.
    pub(crate) fn new(tx: &'a Tx) -> Self {
        Self {
            tx,
            decision: None,
            entries: BTreeMap::new(),
        }
    }

    /// Likewise, for attempts that may be closed: from when they are loaded on nothing of them is pushed until that is committed,
    /// and they say what was pushed before.
    pub(crate) fn deciding(tx: &'a Deciding) -> Self {
        Self {
            decision: Some(tx.decision()),
            ..Self::new(tx)
        }
    }

    /// Adds the attempts that meet a condition.
    pub(crate) async fn load(&mut self, condition: Condition, limit: Option<u64>) -> Result<()> {
        let query = attempt::Entity::find().filter(condition).limit(limit);
        let mut loaded = Vec::new();
        for row in query.all(&self.tx.db).await? {
            loaded.push(id(&row));
            let facts = facts(&row)?;
            let entry = Entry {
                before: facts.state,
                was_unresolved: facts.unresolved,
                was_late: facts.late.is_some(),
                facts,
                row,
                dirty: false,
            };
            self.entries
                .insert((entry.row.target_id, entry.row.number), entry);
        }
        if let Some(decision) = self.decision {
            let pushes = decision.hold(loaded);
            for (attempt, epoch) in &pushes {
                if let Some(entry) = self.entries.get_mut(&key(*attempt)) {
                    entry.note_push(signed(*epoch), self.tx.now);
                }
            }
            decision.note(pushes);
        }
        Ok(())
    }

    /// One attempt, if it was loaded.
    pub(crate) fn get(&mut self, key: (Uuid, i32)) -> Option<&mut Entry> {
        self.entries.get_mut(&key)
    }

    /// Every attempt that was loaded.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (&(Uuid, i32), &mut Entry)> {
        self.entries.iter_mut()
    }

    /// How many were loaded.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Writes what changed, its events, and the deployments that are finished by it; says how many attempts changed.
    pub(crate) async fn save(self) -> Result<u64> {
        let tx = self.tx;
        let mut closed_in = BTreeSet::new();
        let (mut going_on, mut others) = (Vec::new(), Vec::new());
        for entry in self.entries.into_values().filter(|entry| entry.dirty) {
            if entry.before.is_open() && !entry.facts.state.is_open() {
                closed_in.insert(entry.row.deployment_id);
            }
            announce(tx, &entry);
            if entry.was_unresolved == entry.row.unresolved {
                going_on.push(entry.row);
            } else {
                others.push(entry.row);
            }
        }
        let count = (going_on.len() + others.len()) as u64;
        if count == 0 {
            return Ok(0);
        }
        compare_and_set(tx, going_on, false).await?;
        compare_and_set(tx, others, true).await?;
        tx.touch();
        finish_deployments(tx, closed_in).await?;
        Ok(count)
    }
}

impl Entry {
    /// What the rules look at.
    pub(crate) const fn facts(&self) -> &Attempt {
        &self.facts
    }

    /// Applies what became known.
    pub(crate) fn apply(&mut self, fact: Fact, now: Timestamp) -> Verdict {
        self.happen(fact.into(), now)
    }

    /// Applies a decision, which only who has leave for it can take: the attempt is held, and what was pushed of it is known.
    pub(crate) fn close(&mut self, _leave: &Deciding, closing: Closing, now: Timestamp) -> Verdict {
        self.happen(closing.into(), now)
    }

    fn happen(&mut self, event: Event, now: Timestamp) -> Verdict {
        let verdict = apply(&self.facts, event, now);
        if let Verdict::Applied(next) | Verdict::Late(next) = &verdict {
            self.facts = next.clone();
            write_facts(&mut self.row, next, now);
            self.dirty = true;
        }
        verdict
    }

    /// Notes that it was pushed in this session; late news of a session that does not count any more changes nothing.
    pub(crate) fn note_push(&mut self, epoch: i64, now: Timestamp) {
        let before = Sent(self.row.sent_epoch);
        let noted = before.noted(epoch);
        if noted == before && before.is_taken_back() {
            return;
        }
        let _ = self.apply(Fact::Sent, now);
        if noted != before {
            self.row.sent_epoch = noted.0;
            self.mark_dirty();
        }
    }

    /// The device's complete list does not have it: what was pushed before this session does not count any more.
    pub(crate) fn take_push_back(&mut self, epoch: i64) {
        self.row.sent_epoch = Sent::again_from(epoch).0;
        self.mark_dirty();
    }

    /// Marks a change of the row that is no business of the rules.
    pub(crate) fn mark_dirty(&mut self) {
        self.dirty = true;
    }
}

fn announce(tx: &Tx, entry: &Entry) {
    let (row, now) = (&entry.row, &entry.facts);
    let mut detail = json!({ "target": row.target_id, "attempt": row.number });
    let kind = if entry.before != now.state {
        match now.state {
            // Informative only; nobody waits for these.
            State::Held | State::Pending | State::Sent | State::Running => return,
            State::Accepted
            | State::Succeeded
            | State::Failed
            | State::Cancelled
            | State::Expired
            | State::Superseded => now.state.as_str(),
        }
    } else if now.late.is_some() && !entry.was_late {
        detail["late_state"] = json!(row.late_state);
        "late"
    } else {
        return;
    };
    if let Some(reason) = now.reason {
        detail["reason"] = json!(reason.as_str());
    }
    tx.event(
        format!("attempt.{kind}"),
        Some(row.device_id),
        Some(row.deployment_id),
        detail,
    );
}

/// Updates rows in bulk: an insert that always conflicts, and updates only where the revision is the one that was read. What
/// an update names has its index entries written anew, so it names only what may have changed.
async fn compare_and_set(
    tx: &Tx,
    mut rows: Vec<attempt::Model>,
    may_be_resolved: bool,
) -> Result<()> {
    use attempt::Column as C;
    let expected = rows.len() as u64;
    for row in &mut rows {
        row.revision += 1;
    }
    let changing = C::iter().filter(|column| match column {
        C::TargetId | C::Number | C::DeploymentId | C::DeviceId => false,
        C::BundleName | C::Generation | C::ExecutionUs | C::CreatedAt => false,
        C::Unresolved => may_be_resolved,
        _ => true,
    });
    let stored = Expr::col((attempt::Entity, C::Revision));
    let written = Expr::col((Alias::new("excluded"), C::Revision));
    let on_conflict = OnConflict::columns([C::TargetId, C::Number])
        .update_columns(changing)
        .action_and_where(stored.eq(written.sub(1)))
        .to_owned();
    let updated = insert_counted::<attempt::Entity>(&tx.db, rows, Some(on_conflict)).await?;
    if updated != expected {
        return Err(DbErr::RecordNotUpdated.into());
    }
    Ok(())
}
