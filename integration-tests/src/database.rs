//! Which database a control plane under test keeps its rows in; every test of the control plane
//! runs on both.

use std::path::Path;

use crate::postgres::Postgres;

/// A kind of database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Database {
    /// The embedded default, a file in the data folder.
    Sqlite,
    /// A fresh database in a PostgreSQL cluster.
    Postgres,
}

impl Database {
    /// The `--database-url` of a new, empty database; `None` takes the server's default.
    ///
    /// # Panics
    /// When PostgreSQL is asked for and there is none; says what to install.
    pub async fn fresh_url(self, _data: &Path) -> Option<String> {
        match self {
            Self::Sqlite => None,
            Self::Postgres => {
                // The first caller makes the server, which takes a while; others are answered
                // meanwhile.
                let shared = tokio::task::spawn_blocking(Postgres::shared);
                let postgres = shared.await.expect("PostgreSQL starts").expect(
                    "no PostgreSQL here: install it (Debian: apt install postgresql) \
                     or set KERNEX_TEST_POSTGRES_URL",
                );
                Some(postgres.fresh_url().await)
            }
        }
    }
}

/// Makes two tests of each function of its table, `<name>::sqlite` and `<name>::postgres`.
///
/// A function is `async fn name(database: Database)`. One that no table names is dead code, which
/// CI denies. Without PostgreSQL the second test is shown as ignored with what to install; with
/// `CI=true` it runs, and fails.
#[macro_export]
macro_rules! both_databases {
    [$($name:ident),+ $(,)?] => {$(
        mod $name {
            use $crate::Database;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                Box::pin(super::$name(Database::Sqlite)).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            #[cfg_attr(
                not(kernex_postgres),
                ignore = "no PostgreSQL here: install it (Debian: apt install postgresql) or set KERNEX_TEST_POSTGRES_URL"
            )]
            async fn postgres() {
                Box::pin(super::$name(Database::Postgres)).await;
            }
        }
    )+};
}
