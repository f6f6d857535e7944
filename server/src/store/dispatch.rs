//! What is due: the rows are the queue, and these are its head for the sessions that are here.

mod commands;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use kernex_proto::{
    ids::{AttemptId, DeploymentId, DeviceId},
    v1,
};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, EntityTrait, FromQueryResult, QueryFilter, QueryOrder,
    sea_query::{Expr, ExprTrait, Order, Query, SelectStatement, TableRef},
};
use uuid::Uuid;

pub(super) use self::commands::released;
use super::{
    Result, Store,
    attempts::{Batch, Entry, signed},
    entity::{attempt, signature},
    schedules,
    transaction::{ID_CHUNK, padded},
};
use crate::{
    clock::Timestamp,
    crash::Act,
    domain::{
        attempt::{Sent, State, UNHEARD},
        rollout::DeploymentState,
        schedule::{Schedule, Share},
    },
};

/// A command to push into a session.
#[derive(Debug, Clone, PartialEq)]
pub struct DueCommand {
    /// Whose session.
    pub device: DeviceId,
    /// Which attempt.
    pub attempt: AttemptId,
    /// Which run of the attempt, from 1.
    pub run: u32,
    /// What to do.
    pub kind: DueKind,
    /// Time left for delivery and execution; for the agent's boot clock.
    pub remaining: Duration,
    /// How long it has been due.
    pub waited: Duration,
    /// The [moment](crate::in_flight::InFlight::moment) at which its row was read.
    pub read: u64,
    /// W3C trace context of the order.
    pub traceparent: String,
}

/// What a due command says.
#[derive(Debug, Clone, PartialEq)]
pub enum DueKind {
    /// Put a bundle on the device, in the words of the contract.
    Deploy(Box<v1::Deploy>),
    /// Stop the attempt, known or not.
    Stop(v1::Stop),
}

/// An unresolved attempt with everything a command says about it.
#[derive(FromQueryResult)]
struct Row {
    target_id: Uuid,
    number: i32,
    device_id: Uuid,
    state: String,
    sent_epoch: i64,
    stop_requested: bool,
    stop_going_back: bool,
    stop_sent_epoch: i64,
    updated_at: i64,
    delivery_deadline: i64,
    execution_us: i64,
    deployment_id: Uuid,
    deployment_state: String,
    traceparent: String,
    rolls_back: Option<Uuid>,
    bundle_name: String,
    bundle_version: String,
    digest: String,
    bundle_id: Option<Uuid>,
    size: Option<i64>,
    format: Option<String>,
    run: Option<i32>,
    run_due_at: Option<i64>,
    delivery_us: i64,
    start_at: Option<i64>,
    windows: Option<String>,
    spread_us: Option<i64>,
}

impl Store {
    /// What is due for these devices in these sessions: the oldest unresolved attempt of each bundle name if it was not
    /// pushed in this session, and every stop not pushed in this session; both also when they were, and nothing has been
    /// heard for [`UNHEARD`]. Nothing for conflicted devices.
    ///
    /// Pushes are noted behind ([`mark_sent`](Self::mark_sent), [`mark_stops_sent`](Self::mark_stops_sent)), so a caller
    /// that asks again before that gets the same answer.
    pub async fn due_commands(&self, sessions: &[(DeviceId, u64)]) -> Result<Vec<DueCommand>> {
        let read = self.in_flight().moment();
        let time = self.time();
        let now = time.unwrap_or_else(|| self.now());
        let epochs: BTreeMap<Uuid, i64> = sessions
            .iter()
            .map(|(id, epoch)| (id.0, signed(*epoch)))
            .collect();
        let devices: Vec<Uuid> = epochs.keys().copied().collect();
        let mut due = Vec::new();
        let mut gates = Gates::default();
        for chunk in devices.chunks(ID_CHUNK) {
            let mut head = None;
            for row in self.reader().query_all(&queue(chunk)).await? {
                let row = Row::from_query_result(&row, "")?;
                let queue = (row.device_id, row.bundle_name.clone());
                let is_head = head.as_ref() != Some(&queue);
                head = Some(queue);
                let epoch = epochs.get(&row.device_id).copied().unwrap_or(0);
                if row.stop_requested {
                    if row.stop_sent_epoch < epoch || is_unheard(&row, time) {
                        due.push(commands::stop(&row));
                    }
                } else if is_head
                    && (is_new(&row, epoch, time)
                        && (is_at_work(&row) || gates.let_through(&row, time))
                        || is_granted(&row, now))
                {
                    due.extend(commands::deploy(&row, now)?);
                }
            }
        }
        self.add_signatures(&mut due).await?;
        let due = due.into_iter().map(|(_, command)| command);
        Ok(due.map(|due| DueCommand { read, ..due }).collect())
    }

    async fn add_signatures(&self, due: &mut [(Option<Uuid>, DueCommand)]) -> Result<()> {
        let bundles: BTreeSet<Uuid> = due.iter().filter_map(|(bundle, _)| *bundle).collect();
        if bundles.is_empty() {
            return Ok(());
        }
        let rows = signature::Entity::find()
            .filter(signature::Column::BundleId.is_in(bundles))
            .order_by_asc(signature::Column::KeyId)
            .all(self.reader())
            .await?;
        for (bundle, command) in due {
            let DueKind::Deploy(deploy) = &mut command.kind else {
                continue;
            };
            let theirs = rows.iter().filter(|row| Some(row.bundle_id) == *bundle);
            deploy.signatures = theirs.map(commands::signature).collect();
        }
        Ok(())
    }

    /// Notes every push so far that the rows do not know of. What is not written, because the store failed or because whoever asked
    /// for it went away, waits on.
    pub async fn note_pushes(&self) -> Result<()> {
        let flight = self.in_flight();
        let _turn = flight.writing.lock().await;
        let pushes = flight.handed();
        self.mark_sent(&pushes).await?;
        flight.written(&pushes);
        Ok(())
    }

    /// Notes deploys that were pushed, and in which session. Written behind.
    pub async fn mark_sent(&self, sent: &[(AttemptId, u64)]) -> Result<()> {
        self.mark(sent, |entry, epoch, now| entry.note_push(epoch, now))
            .await
    }

    /// Notes stops that were pushed, in which session, and whether they were to end going back. Written behind: what was ordered
    /// since is another stop.
    pub async fn mark_stops_sent(&self, sent: &[(AttemptId, bool, u64)]) -> Result<()> {
        let (with, without): (Vec<_>, Vec<_>) =
            sent.iter().partition(|(_, going_back, _)| *going_back);
        for (going_back, sent) in [(true, with), (false, without)] {
            let sent: Vec<_> = sent.iter().map(|(id, _, epoch)| (*id, *epoch)).collect();
            self.mark(&sent, |entry, epoch, _| {
                let facts = entry.facts();
                let is_this_stop = facts.stop_requested && facts.stop_going_back == going_back;
                if is_this_stop && entry.row.stop_sent_epoch < epoch {
                    entry.row.stop_sent_epoch = epoch;
                    entry.mark_dirty();
                }
            })
            .await?;
        }
        Ok(())
    }

    async fn mark(
        &self,
        sent: &[(AttemptId, u64)],
        note: impl Fn(&mut Entry, i64, Timestamp) + Send + Sync,
    ) -> Result<()> {
        let note = &note;
        for chunk in sent.chunks(ID_CHUNK) {
            self.write_as(Act::CommitSent, |tx| async move {
                let mut batch = Batch::new(&tx);
                let targets = chunk.iter().map(|(attempt, _)| attempt.target.0);
                let named = Condition::all().add(attempt::Column::TargetId.is_in(padded(targets)));
                batch.load(named, None).await?;
                for (id, epoch) in chunk {
                    if let Some(entry) = batch.get(key(*id)) {
                        note(entry, signed(*epoch), tx.now);
                    }
                }
                batch.save().await?;
                Ok(())
            })
            .await?;
        }
        Ok(())
    }
}

/// How an attempt is named in its table.
pub(crate) fn key(id: AttemptId) -> (Uuid, i32) {
    (id.target.0, i32::try_from(id.number).unwrap_or(0))
}

/// Whether it waits for its device and was not pushed in this session; a clock that jumped makes nothing late. One that was
/// accepted but, as far as these rows know, never pushed is asked about again: after a restore the device knows more, and
/// otherwise repeating it does no harm. What is paused begins nowhere.
fn is_new(row: &Row, epoch: i64, now: Option<Timestamp>) -> bool {
    let paused = row.deployment_state == DeploymentState::Paused.as_str();
    let waits = row.state == State::Pending.as_str() || row.state == State::Sent.as_str();
    let waits = waits && !paused && now.is_none_or(|now| row.delivery_deadline > now.0);
    let unheard = row.state == State::Sent.as_str() && is_unheard(row, now);
    let sent = Sent(row.sent_epoch);
    let is_first = sent.is_new_to(epoch);
    waits && (is_first || unheard) || is_first && is_at_work(row) && !sent.is_known()
}

/// Whether nothing has been heard since it was pushed, for so long that it may not have arrived.
fn is_unheard(row: &Row, now: Option<Timestamp>) -> bool {
    now.is_some_and(|now| now.since(Timestamp(row.updated_at)) >= UNHEARD)
}

fn is_at_work(row: &Row) -> bool {
    row.state == State::Accepted.as_str() || row.state == State::Running.as_str()
}

/// Schedules of the deployments met so far. They gate beginnings only: stops, and further runs of what has begun, pass.
#[derive(Default)]
struct Gates(BTreeMap<Uuid, Option<Schedule>>);

impl Gates {
    /// Whether time allows an attempt to begin.
    fn let_through(&mut self, row: &Row, now: Option<Timestamp>) -> bool {
        let Some(windows) = &row.windows else {
            return true;
        };
        let schedule = self.0.entry(row.deployment_id).or_insert_with(|| {
            let read = schedules::read(row.start_at, windows, row.spread_us.unwrap_or(0), None);
            read.inspect_err(|why| {
                // Too early would be worse than not at all, and its delivery deadline ends it by name.
                tracing::error!(deployment = %row.deployment_id, why, "its schedule cannot be read, so nothing of it begins");
            })
            .ok()
        });
        let Some(schedule) = schedule else {
            return false;
        };
        // Its time for delivery began with its release.
        let released = Timestamp(row.delivery_deadline.saturating_sub(row.delivery_us));
        let share = Share::new(DeploymentId(row.deployment_id), DeviceId(row.device_id));
        schedule.is_due(released, share, now)
    }
}

/// Whether the device asked to be asked again, and the time for it has come.
fn is_granted(row: &Row, now: Timestamp) -> bool {
    is_at_work(row) && row.run_due_at.is_some_and(|due| due <= now.0)
}

/// The unresolved attempts of some devices, those that come first in front.
fn queue(devices: &[Uuid]) -> SelectStatement {
    let mut query = Query::select();
    for column in [
        "target_id",
        "number",
        "device_id",
        "state",
        "sent_epoch",
        "stop_requested",
        "stop_going_back",
        "stop_sent_epoch",
        "updated_at",
        "delivery_deadline",
        "execution_us",
        "deployment_id",
        "bundle_name",
    ] {
        query.column(("a", column));
    }
    let on = |left: (&'static str, &'static str), right: (&'static str, &'static str)| {
        Expr::col(left).equals(right)
    };
    query
        .expr_as(Expr::col(("p", "state")), "deployment_state")
        .columns([
            ("p", "traceparent"),
            ("p", "delivery_us"),
            ("p", "rolls_back"),
        ])
        .columns([("s", "start_at"), ("s", "windows"), ("s", "spread_us")])
        .columns([("t", "bundle_version"), ("t", "digest")])
        .expr_as(Expr::col(("b", "id")), "bundle_id")
        .columns([("b", "size"), ("b", "format")])
        .column(("r", "run"))
        .expr_as(Expr::col(("r", "due_at")), "run_due_at")
        .from_as("attempts", "a")
        .inner_join(
            TableRef::from("targets").alias("t"),
            on(("t", "id"), ("a", "target_id")),
        )
        .inner_join(
            TableRef::from("deployments").alias("p"),
            on(("p", "id"), ("a", "deployment_id")),
        )
        .inner_join(
            TableRef::from("devices").alias("d"),
            on(("d", "id"), ("a", "device_id")),
        )
        .left_join(
            TableRef::from("bundles").alias("b"),
            on(("b", "name"), ("t", "bundle_name"))
                .and(on(("b", "version"), ("t", "bundle_version"))),
        )
        .left_join(
            TableRef::from("schedules").alias("s"),
            on(("s", "deployment_id"), ("a", "deployment_id")),
        )
        .left_join(
            TableRef::from("runs").alias("r"),
            on(("r", "target_id"), ("a", "target_id")).and(on(("r", "number"), ("a", "number"))),
        )
        .and_where(Expr::col(("a", "unresolved")))
        .and_where(Expr::col(("d", "conflicted")).not())
        .and_where(Expr::col(("a", "device_id")).is_in(padded(devices.iter().copied())))
        .order_by(("a", "device_id"), Order::Asc)
        .order_by(("a", "bundle_name"), Order::Asc)
        .order_by(("a", "generation"), Order::Asc)
        .order_by(("a", "number"), Order::Asc);
    query
}
