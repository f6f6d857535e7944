//! Changes many attempts together: rows are loaded, changed by `domain::attempt::apply` only, and
//! written back by compare-and-set, with their events and with the deployments that they finish.

use std::collections::{BTreeMap, BTreeSet};

use kernex_proto::ids::TargetId;
use sea_orm::{
    Condition, DbErr, EntityTrait, ExprTrait, Iterable, QueryFilter, QuerySelect,
    sea_query::{Expr, OnConflict},
};
use serde_json::json;

use crate::{
    clock::Timestamp,
    delivery::in_flight::DecisionGuard,
    domain::attempt::{Attempt, Closing, Effect, Event, Fact, Sent, State, apply},
    store::{
        db::{
            error::Result,
            new_event::Subject,
            raw::inserted,
            sizes::insert_counted,
            transaction::{Deciding, Tx},
            values::signed,
        },
        entity::{attempt, stored::Stored},
        read::attempts::{facts, id, key},
        write::finish::finish_deployments,
    },
};

/// One attempt within a [`Batch`].
pub(crate) struct Entry {
    /// The row as [`Batch::save`] will write it.
    pub(crate) row: attempt::Model,
    facts: Attempt,
    before: State,
    was_unresolved: bool,
    was_late: bool,
    dirty: bool,
}

/// Attempts that are changed and written together.
pub(crate) struct Batch<'a> {
    tx: &'a Tx,
    decision: Option<&'a DecisionGuard>,
    entries: BTreeMap<(Stored<TargetId>, i32), Entry>,
}

impl<'a> Batch<'a> {
    pub(crate) fn new(tx: &'a Tx) -> Self {
        Self {
            tx,
            decision: None,
            entries: BTreeMap::new(),
        }
    }

    /// The same for attempts that may be closed. From the moment they are loaded until the commit
    /// they are not pushed, and pushes before that moment are known.
    pub(crate) fn deciding(tx: &'a Deciding) -> Self {
        Self {
            decision: Some(tx.decision()),
            ..Self::new(tx)
        }
    }

    /// Loads the attempts that meet a condition.
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
            decision.note_pushes(pushes);
        }
        Ok(())
    }

    pub(crate) fn get(&mut self, key: (Stored<TargetId>, i32)) -> Option<&mut Entry> {
        self.entries.get_mut(&key)
    }

    /// Whether an attempt was loaded and is open.
    pub(crate) fn is_open(&self, key: (Stored<TargetId>, i32)) -> bool {
        self.entries
            .get(&key)
            .is_some_and(|entry| entry.facts().state.is_open())
    }

    pub(crate) fn iter_mut(
        &mut self,
    ) -> impl Iterator<Item = (&(Stored<TargetId>, i32), &mut Entry)> {
        self.entries.iter_mut()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Writes the attempts that changed with their events, and finishes deployments that have no
    /// open target left. Returns how many attempts changed.
    pub(crate) async fn save(self) -> Result<u64> {
        let tx = self.tx;
        let mut closed_in = BTreeSet::new();
        let (mut going_on, mut others) = (Vec::new(), Vec::new());
        for entry in self.entries.into_values().filter(|entry| entry.dirty) {
            if entry.before.is_open() && !entry.facts.state.is_open() {
                closed_in.insert(entry.row.deployment_id.0);
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
    /// The attempt as the rules see it.
    pub(crate) const fn facts(&self) -> &Attempt {
        &self.facts
    }

    /// Applies a fact that became known.
    pub(crate) fn apply(&mut self, fact: Fact, now: Timestamp) -> Effect {
        self.happen(fact.into(), now)
    }

    /// Applies a decision. Only a [`Deciding`] transaction may: it keeps the attempt from being
    /// pushed, and knows whether it was.
    pub(crate) fn close(&mut self, _leave: &Deciding, closing: Closing, now: Timestamp) -> Effect {
        self.happen(closing.into(), now)
    }

    fn happen(&mut self, event: Event, now: Timestamp) -> Effect {
        let verdict = apply(&self.facts, event, now);
        if let Effect::Applied(next) | Effect::Late(next) = &verdict {
            self.facts = next.clone();
            write_facts(&mut self.row, next, now);
            self.dirty = true;
        }
        verdict
    }

    /// Notes that the attempt was pushed in this session. A note that comes late, of a session that
    /// does not count any more, changes nothing.
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

    /// The attempt is not in the device's complete list. Pushes before this session do not count
    /// any more.
    pub(crate) fn take_push_back(&mut self, epoch: i64) {
        self.row.sent_epoch = Sent::again_from(epoch).0;
        self.mark_dirty();
    }

    /// Has the row written although the rules see no change.
    pub(crate) fn mark_dirty(&mut self) {
        self.dirty = true;
    }
}

pub(crate) fn write_facts(row: &mut attempt::Model, facts: &Attempt, now: Timestamp) {
    row.state = facts.state.as_str().to_owned();
    row.reason = facts.reason.map(|reason| reason.as_str().to_owned());
    row.step = facts.step.map(|step| step.as_str().to_owned());
    (row.bytes_done, row.bytes_total) = (signed(facts.bytes.0), signed(facts.bytes.1));
    row.unresolved = facts.unresolved;
    row.stop_requested = facts.stop_requested;
    if facts.stop_going_back && !row.stop_going_back {
        // The stop that was pushed before did not end going back, so this one has to be pushed,
        // too.
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

fn announce(tx: &Tx, entry: &Entry) {
    let (row, now) = (&entry.row, &entry.facts);
    let mut detail = json!({ "target": row.target_id, "attempt": row.number });
    let kind = if entry.before != now.state {
        match now.state {
            // Nobody waits for an event about these states.
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
        Subject::Both(row.device_id.0, row.deployment_id.0),
        detail,
    );
}

/// Updates rows in bulk, by an insert in which each row conflicts. A row is updated only where its
/// revision is the one that was read. Only columns that may have changed are named, because the
/// database writes index entries anew for each named column.
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
    let written = inserted(C::Revision);
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
