//! The only place that knows the database: one schema on SQLite and PostgreSQL.
//!
//! Every change goes through [`transaction`], which retries it, stamps it, writes its events in commit order and wakes
//! [`Store::changes`]. Reads outside of it see committed rows only. Entities never leave this module.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use kernex_migrations::Migrator;
use kernex_proto::ids::ClusterId;
use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, EntityTrait};
use sea_orm_migration::MigratorTrait;
use tokio::sync::watch;
use uuid::Uuid;

use crate::{
    clock::{Clock, Look, Timestamp},
    in_flight::InFlight,
    metrics::Transactions,
    revocations::Revocations,
};
use connect::Pools;
use entity::cluster;
use event_limit::EventLimit;
use transaction::insert_all;

pub mod access;
mod attempts;
pub mod bundles;
mod chosen;
pub mod configurations;
mod connect;
mod copies;
pub mod deployments;
pub mod devices;
mod disk_faults;
pub mod dispatch;
mod downloads;
mod drifts;
mod dynamic;
mod enroll;
#[expect(unreachable_pub, reason = "the derive makes public items of rows")]
mod entity;
mod event_limit;
pub mod events;
mod fan_out;
pub mod heartbeats;
mod history;
mod leftovers;
mod marks;
pub mod page;
mod penalties;
mod phases;
pub mod plans;
mod progress;
mod releases;
pub mod reports;
mod requests;
pub mod revocations;
pub mod rollbacks;
pub mod rollouts;
mod running;
pub mod runs;
pub mod schedules;
pub mod sessions;
pub mod steering;
pub mod steps;
mod targets;
mod transaction;
mod unknown;
mod waiting;

pub use page::{Page, Paged};

/// How far the clock and the boot clock may run apart before deadlines are not trusted any more.
const MAX_DRIFT: Duration = Duration::from_secs(5 * 60);

/// What the store answers.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database does not answer.
    #[error("the database does not answer: {0}")]
    Unavailable(String),
    /// No such thing.
    #[error("there is no {kind} `{id}`")]
    NotFound {
        /// What was looked for.
        kind: &'static str,
        /// How it was named.
        id: String,
    },
    /// The name is taken.
    #[error("{kind} `{id}` exists already{why}")]
    AlreadyExists {
        /// What exists.
        kind: &'static str,
        /// Its name.
        id: String,
        /// What is different about it, with a leading separator.
        why: String,
    },
    /// The revision moved on.
    #[error("{kind} `{id}` has changed meanwhile: it is at revision {revision}; read it again")]
    Conflict {
        /// What changed.
        kind: &'static str,
        /// Its name.
        id: String,
        /// Where it is now.
        revision: u64,
    },
    /// Something needs it.
    #[error("{kind} `{id}` is in use: {why}")]
    InUse {
        /// What is needed.
        kind: &'static str,
        /// Its name.
        id: String,
        /// By whom.
        why: String,
    },
    /// A field is wrong.
    #[error("{field}: {why}")]
    Invalid {
        /// Which field.
        field: &'static str,
        /// What is wrong.
        why: String,
    },
    /// Nothing matched.
    #[error("no device matched")]
    NoTargets,
    /// A copy of a device that an operator decided against.
    #[error(
        "this copy of the device `{0}` was given up; enrol it as a device of its own, with a new key and an empty state folder"
    )]
    CopyGivenUp(String),
    /// A session number that was never given.
    #[error(
        "`{name}` says that its newest session was number {told}, and {issued} is the newest that was given; the device is conflicted until an operator decides (`kernexctl device resolve`)"
    )]
    EpochNotIssued {
        /// Name of the device.
        name: String,
        /// What the agent says.
        told: u64,
        /// What was given.
        issued: u64,
    },
    /// An older revision of the session protocol than the device spoke before.
    #[error(
        "`{name}` spoke revision {before} of the protocol before and comes with {spoken} now: somebody may be in between, or its agent is an older one (`kernexctl device resolve --allow-downgrade`)"
    )]
    ProtocolDowngraded {
        /// Name of the device.
        name: String,
        /// What it comes with.
        spoken: u32,
        /// What it spoke before.
        before: u32,
    },
    /// There is nothing to decide.
    #[error("the device `{0}` is not conflicted; there is nothing to resolve")]
    NotConflicted(String),
    /// It does not stand where that makes sense.
    #[error("{kind} `{id}` {why}")]
    WrongState {
        /// What was meant.
        kind: &'static str,
        /// Its name.
        id: String,
        /// How it stands, as the rest of a sentence.
        why: String,
    },
    /// It is finished already.
    #[error("it is finished already")]
    Finished,
    /// No device of a deployment can go back.
    #[error("no device can go back: {0}")]
    NothingToRollBack(String),
    /// The same request id came with another body.
    #[error("this request id was used for another request")]
    RequestIdReused,
    /// The database failed.
    #[error("the database failed")]
    Db(#[source] sea_orm::DbErr),
}

/// Who changes something: for the audit, and for requests that are repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Name on the operator's token.
    pub name: String,
    /// Chosen by the caller; the same one again gets the first answer.
    pub request_id: Option<Uuid>,
    /// The method that was called.
    pub method: &'static str,
}

/// The database, over connections for what devices need: sessions, authentication, dispatch and everything that keeps the
/// server going. Clones share it.
#[derive(Debug, Clone)]
pub struct Store(Arc<Inner>, Lane);

/// The same database over connections of its own, for what operators ask: however many of those are taken and however long,
/// sessions do not wait for one.
#[derive(Debug, Clone)]
pub struct OperatorStore(Store);

impl std::ops::Deref for OperatorStore {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.0
    }
}

/// Whose connections are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lane {
    Sessions,
    Operators,
}

#[derive(Debug)]
struct Inner {
    sessions: Pools,
    operators: Pools,
    clock: Clock,
    /// What the database's clock shows beyond this machine's, in microseconds; always zero on SQLite.
    ahead: AtomicI64,
    /// What that was at the first look; a database's clock can jump as well.
    first_ahead: OnceLock<i64>,
    /// The newest stamp given to a transaction.
    last: AtomicI64,
    changes: watch::Sender<u64>,
    figures: Transactions,
    revocations: Revocations,
    in_flight: Arc<InFlight>,
    event_limit: EventLimit,
}

impl Store {
    /// Opens a database: `sqlite://path` or `postgres://...`.
    pub async fn open(url: &str, clock: Clock) -> Result<Self> {
        let (sessions, operators) = connect::connect(url).await?;
        let figures = Transactions::default();
        let inner = Inner {
            sessions,
            operators,
            clock,
            ahead: AtomicI64::new(0),
            first_ahead: OnceLock::new(),
            last: AtomicI64::new(0),
            changes: watch::Sender::new(0),
            event_limit: EventLimit::new(&figures),
            figures,
            revocations: Revocations::default(),
            in_flight: Arc::default(),
        };
        Ok(Self(Arc::new(inner), Lane::Sessions))
    }

    /// The same, for what operators ask.
    #[must_use]
    pub fn for_operators(&self) -> OperatorStore {
        OperatorStore(Self(Arc::clone(&self.0), Lane::Operators))
    }

    /// Brings the schema up to date. Replicas that start together wait for each other.
    pub async fn migrate(&self) -> Result<()> {
        let lock = connect::lock_migrations(self.writer()).await?;
        let outcome = Migrator::up(self.writer(), None).await;
        if let Some(lock) = lock {
            // Closing the connection gives the lock back whatever happened before.
            let _ = sqlx::Connection::close(lock).await;
        }
        outcome?;
        self.cluster_id().await?;
        Ok(())
    }

    /// The id of this installation, made on first use.
    pub async fn cluster_id(&self) -> Result<ClusterId> {
        if let Some(row) = cluster::Entity::find().one(self.reader()).await? {
            return Ok(ClusterId(row.cluster_id));
        }
        self.write(|tx| async move {
            if let Some(row) = cluster::Entity::find().one(&tx.db).await? {
                return Ok(ClusterId(row.cluster_id));
            }
            let id = ClusterId::generate();
            let row = cluster::Model {
                id: 1,
                cluster_id: id.0,
                event_cursor: 0,
                created_at: tx.now.0,
                revocations: 0,
            };
            insert_all::<cluster::Entity>(&tx.db, vec![row], None).await?;
            Ok(id)
        })
        .await
    }

    /// Whether the database answers over these connections.
    pub async fn ping(&self) -> Result<()> {
        self.reader().ping().await?;
        Ok(())
    }

    /// Moves what SQLite has in its log into its file, beside the commits and without holding them up, so that none of them
    /// has to. Nothing to do on PostgreSQL, which does so by itself.
    pub async fn checkpoint(&self) -> Result<()> {
        if self.is_alone() {
            let move_log = "PRAGMA wal_checkpoint(PASSIVE)";
            self.reader().execute_unprepared(move_log).await?;
        }
        Ok(())
    }

    /// Closes every connection.
    pub async fn close(self) -> Result<()> {
        for pools in [&self.0.operators, &self.0.sessions] {
            pools.reader.close_by_ref().await?;
            pools.writer.close_by_ref().await?;
        }
        Ok(())
    }

    /// Changes after each commit that changed targets, devices or events.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// What was pushed and is not in the rows, and what is being decided.
    #[must_use]
    pub fn in_flight(&self) -> &Arc<InFlight> {
        &self.0.in_flight
    }

    /// What this store counts about its transactions.
    #[must_use]
    pub fn figures(&self) -> &Transactions {
        &self.0.figures
    }

    /// Now, on the database's clock. A clock that was set far back does not take it along: what is ordered meanwhile would
    /// be long late once the clock is right again.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.now_at(self.0.clock.look())
    }

    fn now_at(&self, look: Look) -> Timestamp {
        let ahead = self.0.ahead.load(Ordering::Relaxed);
        self.never_back(look.now().0.saturating_add(ahead), look)
    }

    fn never_back(&self, now: i64, look: Look) -> Timestamp {
        let drift = self.drift(look);
        if drift < 0 && !is_trusted(drift) {
            return Timestamp(now.saturating_sub(drift));
        }
        Timestamp(now)
    }

    /// How far the clock that deadlines go by ran away from the boot clock since this process began.
    #[must_use]
    pub fn clock_drift(&self) -> Duration {
        Duration::from_micros(self.drift(self.0.clock.look()).unsigned_abs())
    }

    fn drift(&self, look: Look) -> i64 {
        let ahead = self.0.ahead.load(Ordering::Relaxed);
        let first = self.0.first_ahead.get().copied().unwrap_or(ahead);
        let jumped = ahead.saturating_sub(first);
        look.drift.saturating_add(jumped)
    }

    /// Now by the boot clock, while the clock is not to be trusted: nobody is locked out because it jumped.
    pub(crate) fn steady_now(&self) -> Timestamp {
        let drift = self.drift(self.0.clock.look());
        let now = self.now();
        if drift <= 0 || is_trusted(drift) {
            return now;
        }
        Timestamp(now.0.saturating_sub(drift))
    }

    /// Whether deadlines count. Nothing expires, and nothing old is deleted, while the clock is far from where it should
    /// be: until it is back, or until a restart accepts it.
    #[must_use]
    pub fn trusts_clock(&self) -> bool {
        self.trusts(self.0.clock.look())
    }

    fn trusts(&self, look: Look) -> bool {
        is_trusted(self.drift(look))
    }

    /// Now, for what only time decides; none while the clock is not to be trusted.
    pub(crate) fn time(&self) -> Option<Timestamp> {
        // Of one look: a clock that jumps between two would be trusted with the wrong time.
        let look = self.0.clock.look();
        self.trusts(look).then(|| self.now_at(look))
    }

    pub(crate) fn writer(&self) -> &DatabaseConnection {
        &self.pools().writer
    }

    pub(crate) fn reader(&self) -> &DatabaseConnection {
        &self.pools().reader
    }

    fn pools(&self) -> &Pools {
        match self.1 {
            Lane::Sessions => &self.0.sessions,
            Lane::Operators => &self.0.operators,
        }
    }

    /// One machine, one database file: nobody else can have sessions in it.
    pub(crate) fn is_alone(&self) -> bool {
        self.writer().get_database_backend() == DbBackend::Sqlite
    }

    /// Stamps a transaction by this machine's clock, and says whether that is to be trusted.
    fn stamp(&self) -> (Timestamp, bool) {
        let look = self.0.clock.look();
        (self.stamp_at(self.now_at(look).0), self.trusts(look))
    }

    /// The same by the database's clock, which it also takes note of.
    fn stamp_from(&self, database: i64) -> (Timestamp, bool) {
        let look = self.0.clock.look();
        let now = database.saturating_add(look.offset);
        let ahead = database.saturating_sub(look.wall);
        self.0.first_ahead.get_or_init(|| ahead);
        self.0.ahead.store(ahead, Ordering::Relaxed);
        let stamp = self.stamp_at(self.never_back(now, look).0);
        (stamp, self.trusts(look))
    }

    /// Stamps grow even where the clock stands still or steps back a little. A clock that is set back further was wrong
    /// before: staying with it would keep every deadline wrong.
    fn stamp_at(&self, now: i64) -> Timestamp {
        let back = i64::try_from(MAX_DRIFT.as_micros()).unwrap_or(i64::MAX);
        let next = |last: i64| {
            if now > last || last.saturating_sub(now) > back {
                now
            } else {
                last + 1
            }
        };
        let last = &self.0.last;
        let before = last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
            Some(next(last))
        });
        Timestamp(next(before.unwrap_or_else(|last| last)))
    }

    fn wake(&self) {
        self.0.changes.send_modify(|n| *n = n.wrapping_add(1));
    }
}

fn is_trusted(drift: i64) -> bool {
    Duration::from_micros(drift.unsigned_abs()) <= MAX_DRIFT
}
