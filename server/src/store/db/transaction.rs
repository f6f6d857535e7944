//! The only way to change rows: a closure that may run again, with isolation, retries, a timestamp
//! and events around it.
//!
//! Writers are serial on both databases. SQLite has one writer connection and `BEGIN IMMEDIATE`.
//! PostgreSQL takes one advisory lock for the length of the transaction. Therefore cursors of
//! events grow in commit order, deployments finish exactly once, and deadlines compare with one
//! clock. Group commit keeps that cheap. `Store::write_beside` takes no lock: it is for rows that
//! nobody else writes, such as heartbeats and leases.
//!
//! This file has what a closure is given; `run_transaction` has how it is run.

use std::{
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use kernex_proto::ids::DeviceId;
use parking_lot::Mutex;
use sea_orm::{DatabaseTransaction, DbErr};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    clock::Timestamp,
    delivery::in_flight::DecisionGuard,
    revocations::Revocation,
    store::db::{
        error::Result,
        ids::Ids,
        new_event::{LogEvents, NewEvent, Subject},
    },
};

/// An open transaction in which attempts may be closed. Attempts that it loads are not pushed until
/// it commits, and it knows which were pushed before.
pub(crate) struct Deciding {
    tx: Arc<Tx>,
    decision: Arc<DecisionGuard>,
}

impl Deref for Deciding {
    type Target = Tx;

    fn deref(&self) -> &Tx {
        &self.tx
    }
}

impl Deciding {
    pub(crate) fn new(tx: Arc<Tx>, decision: Arc<DecisionGuard>) -> Self {
        Self { tx, decision }
    }

    /// Holds attempts back from being pushed.
    pub(crate) fn decision(&self) -> &DecisionGuard {
        &self.decision
    }
}

pub(crate) struct Tx {
    /// The connection to run statements on.
    pub(crate) db: DatabaseTransaction,
    /// The stamp of this transaction, later than that of any transaction before it.
    pub(crate) now: Timestamp,
    is_timely: bool,
    ids: Ids,
    events: Mutex<Vec<NewEvent>>,
    revoked: Mutex<Vec<Revocation>>,
    changed: AtomicBool,
}

impl Tx {
    /// A transaction that was begun in `db` and is stamped `now`. `is_timely` says whether the
    /// clock is trusted.
    pub(crate) fn new(db: DatabaseTransaction, now: Timestamp, is_timely: bool) -> Self {
        Self {
            db,
            now,
            is_timely,
            ids: Ids::at(now),
            events: Mutex::default(),
            revoked: Mutex::default(),
            changed: AtomicBool::new(false),
        }
    }

    /// The stamp, for decisions that time alone makes; `None` while the clock is not trusted.
    pub(crate) fn time(&self) -> Option<Timestamp> {
        self.is_timely.then_some(self.now)
    }

    /// The id of a new row: of this instant, and greater than those made before.
    pub(crate) fn new_id(&self) -> Uuid {
        self.ids.next()
    }

    /// Writes an event at commit.
    pub(crate) fn event(&self, kind: impl Into<String>, subject: Subject, detail: Value) {
        self.event_of_trace(kind, subject, detail, String::new());
    }

    /// The same about a deployment, with the trace in which it was ordered.
    pub(crate) fn event_of_trace(
        &self,
        kind: impl Into<String>,
        subject: Subject,
        detail: Value,
        traceparent: String,
    ) {
        let event = NewEvent {
            kind: kind.into(),
            subject,
            detail,
            traceparent,
        };
        self.events.lock().push(event);
    }

    /// Writes an event about a device at commit.
    pub(crate) fn device_event(&self, kind: &'static str, device: DeviceId, name: &str) {
        self.event(kind, Subject::Device(device), json!({ "name": name }));
    }

    /// Ends at commit what goes on in the name of a revoked key or token.
    pub(crate) fn revoked(&self, what: Revocation) {
        self.revoked.lock().push(what);
    }

    /// Wakes watchers at commit although no event is written.
    pub(crate) fn touch(&self) {
        self.changed.store(true, Ordering::Relaxed);
    }

    /// Takes out what is revoked at commit.
    pub(crate) fn take_revoked(&mut self) -> Vec<Revocation> {
        std::mem::take(self.revoked.get_mut())
    }

    /// Commits. Returns the events that were written, and whether watchers have to be woken.
    pub(crate) async fn commit(self, log_events: LogEvents) -> Result<(Vec<NewEvent>, bool)> {
        let events = self.events.into_inner();
        let changed = !events.is_empty() || self.changed.load(Ordering::Relaxed);
        if !events.is_empty() {
            log_events(&self.db, self.now, &events).await?;
        }
        self.db.commit().await?;
        Ok((events, changed))
    }

    pub(crate) async fn rollback(self) -> std::result::Result<(), DbErr> {
        self.db.rollback().await
    }
}
