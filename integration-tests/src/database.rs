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
                // The first one makes it, which takes its time, and others must be answered
                // meanwhile.
                let shared = tokio::task::spawn_blocking(Postgres::shared);
                let postgres = shared.await.expect("PostgreSQL starts").expect(
                    "no PostgreSQL here: install it (Debian: apt install postgresql) or set KERNEX_TEST_POSTGRES_URL",
                );
                Some(postgres.fresh_url().await)
            }
        }
    }
}

/// Runs each test twice, as `<name>::sqlite` and `<name>::postgres`.
///
/// Without PostgreSQL the second is shown as ignored with what to install; with `CI=true` it runs,
/// and fails.
#[macro_export]
macro_rules! both_databases {
    ($($(#[$doc:meta])* async fn $name:ident($database:ident) $body:block)+) => {$(
        $(#[$doc])*
        mod $name {
            #[expect(unused_imports, reason = "not every test needs its module's imports")]
            use super::*;

            async fn check($database: $crate::Database) $body

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                Box::pin(check($crate::Database::Sqlite)).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            #[cfg_attr(
                not(kernex_postgres),
                ignore = "no PostgreSQL here: install it (Debian: apt install postgresql) or set KERNEX_TEST_POSTGRES_URL"
            )]
            async fn postgres() {
                Box::pin(check($crate::Database::Postgres)).await;
            }
        }
    )+};
}
