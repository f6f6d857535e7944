//! Opens the pools. SQLite has one writer and several readers, PostgreSQL one pool for both.
//! Operators have readers or a pool of their own, so that sessions never wait for them.

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

/// Pages in SQLite's log (64 MiB) at which a commit moves them into the file. They are moved
/// [beside the commits](crate::store::Store::checkpoint) long before. This bounds the log when
/// nobody does that, or when commits are faster.
const SQLITE_CHECKPOINT: &str = "16384";

/// Readers of SQLite for sessions, authentication and dispatch. They never block the writer.
const SQLITE_READERS: u32 = 4;

/// Readers of SQLite for operators.
const SQLITE_OPERATORS_READERS: u32 = 4;

/// Connections of a replica to PostgreSQL, for sessions; as many again are for operators.
const POSTGRES_CONNECTIONS: u32 = 8;

/// Rows that SQLite's thread may be ahead of the reader. With the driver's fifty, reading the
/// attempts of a batch of reports changes threads dozens of times.
const SQLITE_ROWS_AHEAD: usize = 1024;

/// A pool to write with and a pool to read with.
#[derive(Debug)]
pub(crate) struct Pools {
    pub(crate) writer: DatabaseConnection,
    pub(crate) reader: DatabaseConnection,
}

/// The pools of sessions and those of operators. Both share SQLite's one writer: transactions are
/// short, and they take turns.
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
        // Spans around statements show them. A line for each would drown the log.
        .sqlx_logging(false);
    options
}

fn sqlite(url: &str, connections: u32, read_only: bool) -> ConnectOptions {
    let mut options = options(url, connections);
    options
        // A new connection begins with an empty page cache.
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .map_sqlx_sqlite_pool_opts(|options| {
            options.after_release(|connection, _| {
                // On a full disk SQLite rolls back by itself, and the driver's own rollback fails.
                // The driver then still believes that it is in a transaction, and nothing that
                // follows would ever be committed. So such a connection is not used again.
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
            // In KiB. The system's page cache has what readers do not keep.
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
        let operators = store.for_operators().0;
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
