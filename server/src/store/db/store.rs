//! The database as the server holds it: its connections, and what all who use it share.

use std::sync::{Arc, OnceLock, atomic::AtomicI64};

use sea_orm::{DatabaseConnection, DbBackend};
use tokio::sync::watch;

use crate::{
    clock::Clock,
    delivery::in_flight::InFlight,
    log_queue::LogQueue,
    metrics::Transactions,
    revocations::Revocations,
    store::db::{
        connect::{self, Pools},
        error::Result,
        event_limit::EventLimit,
        new_event::LogEvents,
        raw::move_log,
    },
};

/// The database over the connections for devices: sessions, authentication, dispatch, upkeep.
/// Clones share everything.
#[derive(Debug, Clone)]
pub struct Store(pub(super) Arc<Inner>, Lane);

/// The same database over connections of its own, for operators. Sessions do not wait, however many
/// of these are taken and for however long.
///
/// It gives no access to a [`Store`]. What operators change takes their `Caller`; what they ask is
/// asked of a `View`, which is made with what they may see.
#[derive(Debug, Clone)]
pub struct OperatorStore(pub(in crate::store) Store);

/// Whose connections are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lane {
    Sessions,
    Operators,
}

#[derive(Debug)]
pub(super) struct Inner {
    sessions: Pools,
    operators: Pools,
    pub(super) clock: Clock,
    /// Microseconds by which the database's clock is ahead of this machine's; always zero on
    /// SQLite.
    pub(super) ahead: AtomicI64,
    /// The same at the first reading. The clock of a database may jump, too.
    pub(super) first_ahead: OnceLock<i64>,
    /// The newest stamp of a transaction.
    pub(super) last: AtomicI64,
    changes: watch::Sender<u64>,
    figures: Transactions,
    revocations: Revocations,
    in_flight: Arc<InFlight>,
    event_limit: EventLimit,
    log_events: LogEvents,
    log_queue: Arc<LogQueue>,
}

/// How many connections of a pool are in use, and how many more could be.
fn usage_of(pool: &DatabaseConnection) -> (usize, usize) {
    let usage = |open: u32, idle: usize, most: u32| {
        let size = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
        let busy = size(open).saturating_sub(idle);
        (busy, size(most).saturating_sub(busy))
    };
    match pool.get_database_backend() {
        DbBackend::Postgres => {
            let pool = pool.get_postgres_connection_pool();
            let most = pool.options().get_max_connections();
            usage(pool.size(), pool.num_idle(), most)
        }
        _ => {
            let pool = pool.get_sqlite_connection_pool();
            let most = pool.options().get_max_connections();
            usage(pool.size(), pool.num_idle(), most)
        }
    }
}

impl Store {
    /// Connects to a database. `log_events` writes the events of a transaction; its table is not
    /// known on this floor.
    pub(crate) async fn connect(url: &str, clock: Clock, log_events: LogEvents) -> Result<Self> {
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
            log_events,
            log_queue: Arc::default(),
        };
        Ok(Self(Arc::new(inner), Lane::Sessions))
    }

    /// The same database over the connections for operators.
    #[must_use]
    pub fn for_operators(&self) -> OperatorStore {
        OperatorStore(Self(Arc::clone(&self.0), Lane::Operators))
    }

    /// Whether the database answers over these connections.
    pub async fn ping(&self) -> Result<()> {
        self.reader().ping().await?;
        Ok(())
    }

    /// Moves the log of SQLite into its file, beside the commits and without delaying them.
    /// PostgreSQL does that by itself.
    pub async fn checkpoint(&self) -> Result<()> {
        if self.is_alone() {
            move_log(self.reader()).await?;
        }
        Ok(())
    }

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

    /// Pushes that are not in the rows yet, and attempts that are being decided about.
    #[must_use]
    pub fn in_flight(&self) -> &Arc<InFlight> {
        &self.0.in_flight
    }

    /// Limits the events that each device may cause.
    pub(crate) fn event_limit(&self) -> &EventLimit {
        &self.0.event_limit
    }

    /// Lines about what is committed, which wait a moment.
    pub(crate) fn log_queue(&self) -> &Arc<LogQueue> {
        &self.0.log_queue
    }

    pub(super) fn log_events(&self) -> LogEvents {
        self.0.log_events
    }

    /// The counters of this store's transactions.
    #[must_use]
    pub fn figures(&self) -> &Transactions {
        &self.0.figures
    }

    /// Connections to the database: the pool, what they do, and their number.
    #[must_use]
    pub(crate) fn connections(&self) -> Vec<(&'static str, &'static str, usize)> {
        let mut pools = vec![
            ("sessions", &self.0.sessions.reader),
            ("operators", &self.0.operators.reader),
        ];
        if self.is_alone() {
            pools.push(("writer", &self.0.sessions.writer));
        }
        let usage = pools.into_iter().map(|(name, pool)| (name, usage_of(pool)));
        usage
            .flat_map(|(name, (busy, free))| [(name, "busy", busy), (name, "free", free)])
            .collect()
    }

    /// Tells what is revoked.
    #[must_use]
    pub fn revocations(&self) -> &Revocations {
        &self.0.revocations
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

    /// Whether no other server can have sessions in this database: one machine, one file.
    pub(crate) fn is_alone(&self) -> bool {
        self.writer().get_database_backend() == DbBackend::Sqlite
    }

    pub(crate) fn wake(&self) {
        self.0.changes.send_modify(|n| *n = n.wrapping_add(1));
    }
}
