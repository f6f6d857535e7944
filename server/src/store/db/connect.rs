//! Opens the pools: for SQLite one writer and several readers, for PostgreSQL one pool for both.
//! Operators have readers, or a pool, that sessions do not use.

use std::time::Duration;

use sea_orm::{ConnectOptions, Database, DatabaseConnection, DbBackend, DbErr};
use sqlx::{
    Connection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use crate::store::db::error::{Result, StoreError};

/// Longest wait for another process that holds SQLite's write lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest wait for a connection before the database counts as not answering.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// Size of its log in pages (64 MiB) at which SQLite moves them into its file within a commit. They
/// are moved [beside the commits](crate::store::Store::checkpoint) long before; this bounds the log
/// when nobody does that, or when commits are faster.
const SQLITE_CHECKPOINT: &str = "16384";

/// Readers of SQLite for sessions, authentication and dispatch; they never block the writer.
const SQLITE_READERS: u32 = 4;

/// And those for operators.
const SQLITE_OPERATORS_READERS: u32 = 4;

/// Connections to PostgreSQL, per replica: so many for sessions and as many for operators.
const POSTGRES_CONNECTIONS: u32 = 8;

/// Rows that SQLite's thread may be ahead of whoever reads them. With the driver's fifty, reading
/// the attempts of a batch of reports changes threads dozens of times.
const SQLITE_ROWS_AHEAD: usize = 1024;

/// A pool to write with and a pool to read with.
#[derive(Debug)]
pub(crate) struct Pools {
    pub(crate) writer: DatabaseConnection,
    pub(crate) reader: DatabaseConnection,
}

/// The pools of sessions and those of operators. SQLite's one writer is for both: transactions are
/// short, and it has them wait in turn.
pub(crate) async fn connect(url: &str) -> Result<(Pools, Pools)> {
    if DbBackend::Sqlite.is_prefix_of(url) {
        let writer = Database::connect(sqlite(url, 1, false)).await?;
        let readers = async |most| Database::connect(sqlite(url, most, true)).await;
        let sessions = Pools {
            writer: writer.clone(),
            reader: readers(SQLITE_READERS).await?,
        };
        let operators = Pools {
            writer,
            reader: readers(SQLITE_OPERATORS_READERS).await?,
        };
        return Ok((sessions, operators));
    }
    if DbBackend::Postgres.is_prefix_of(url) {
        let both = async || {
            let pool = Database::connect(postgres(url)).await?;
            Ok::<_, DbErr>(Pools {
                writer: pool.clone(),
                reader: pool,
            })
        };
        return Ok((both().await?, both().await?));
    }
    Err(StoreError::Invalid {
        field: "database_url",
        why: "it has to begin with sqlite:// or postgres://".into(),
    })
}

fn options(url: &str, connections: u32) -> ConnectOptions {
    let mut options = ConnectOptions::new(url);
    options
        .max_connections(connections)
        .min_connections(1)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .connect_timeout(ACQUIRE_TIMEOUT)
        // Statements are seen in the spans around them; a line each would drown the log.
        .sqlx_logging(false);
    options
}

fn sqlite(url: &str, connections: u32, read_only: bool) -> ConnectOptions {
    let mut options = options(url, connections);
    options
        // A connection that is replaced would lose the page cache for nothing.
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .map_sqlx_sqlite_pool_opts(|options| {
            options.after_release(|connection, _| {
                // On a full disk SQLite rolls back by itself, and the rollback that follows fails:
                // the driver goes on to believe that it is in a transaction, and what is committed
                // from then on never may be.
                let usable = !connection.is_in_transaction();
                Box::pin(async move { Ok(usable) })
            })
        })
        .map_sqlx_sqlite_opts(move |options: SqliteConnectOptions| {
            let options = options
                .create_if_missing(true)
                .journal_mode(SqliteJournalMode::Wal)
                // A commit that was answered survives a power cut.
                .synchronous(SqliteSynchronous::Full)
                .foreign_keys(true)
                .busy_timeout(BUSY_TIMEOUT)
                .row_buffer_size(SQLITE_ROWS_AHEAD)
                .pragma("temp_store", "memory");
            // In KiB. What readers do not keep the system has in its page cache.
            if read_only {
                return options
                    .pragma("query_only", "on")
                    .pragma("cache_size", "-1000");
            }
            options
                .pragma("cache_size", "-8000")
                .pragma("wal_autocheckpoint", SQLITE_CHECKPOINT)
        });
    options
}

fn postgres(url: &str) -> ConnectOptions {
    let mut options = options(url, POSTGRES_CONNECTIONS);
    options
        .set_application_name("kernex-server")
        .statement_timeout(Duration::from_secs(60));
    options
}

#[cfg(test)]
mod tests {
    use sea_orm::TransactionTrait as _;

    use crate::{clock::Clock, store::Store};

    #[tokio::test]
    async fn operators_cannot_take_the_readers_of_sessions() {
        let dir = tempfile::tempdir().expect("a folder");
        let url = format!("sqlite://{}", dir.path().join("test.db").display());
        let store = Store::open(&url, Clock::system()).await.expect("opens");
        store.migrate().await.expect("migrates");
        let operators = store.for_operators();
        let mut held = Vec::new();
        for _ in 0..super::SQLITE_OPERATORS_READERS {
            held.push(operators.reader().begin().await.expect("one more"));
        }
        let pool = operators.reader().get_sqlite_connection_pool();
        assert_eq!((pool.size(), pool.num_idle()), (4, 0), "they have them all");
        store.ping().await.expect("sessions have their own");
        store.cluster_id().await.expect("and read");
        let written = store.write(|_| async { Ok(()) }).await;
        written.expect("and write");
    }
}
