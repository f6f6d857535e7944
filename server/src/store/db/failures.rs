//! Classifies errors of the databases: retry at once, unavailable for a while, permanent.

use sea_orm::{DbErr, RuntimeErr, sqlx};

use crate::store::db::error::StoreError;

/// Whether the same transaction may succeed when it runs again.
pub(crate) fn is_retryable(error: &DbErr) -> bool {
    if matches!(error, DbErr::RecordNotUpdated) {
        // Another writer changed the row between our read and our write.
        return true;
    }
    let (DbErr::Conn(source) | DbErr::Exec(source) | DbErr::Query(source)) = error else {
        return false;
    };
    let RuntimeErr::SqlxError(source) = source else {
        return false;
    };
    let Some(code) = source.as_database_error().and_then(|error| error.code()) else {
        return false;
    };
    // Both databases: a row whose device was deleted since it was read. PostgreSQL: serialization
    // failure and deadlock. SQLite: busy and locked, with their extended codes.
    matches!(
        code.as_ref(),
        "23503" | "787" | "40001" | "40P01" | "5" | "6" | "261" | "262" | "517"
    )
}

impl From<DbErr> for StoreError {
    fn from(error: DbErr) -> Self {
        let unavailable = match &error {
            DbErr::ConnectionAcquire(_) => true,
            DbErr::Conn(RuntimeErr::SqlxError(source))
            | DbErr::Exec(RuntimeErr::SqlxError(source))
            | DbErr::Query(RuntimeErr::SqlxError(source)) => is_unavailable(source),
            DbErr::Conn(_) => true,
            _ => false,
        };
        if unavailable && !is_retryable(&error) {
            return Self::Unavailable(error.to_string());
        }
        Self::Db(error)
    }
}

fn is_unavailable(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            if code.len() == 5 {
                is_unavailable_postgres(&code)
            } else {
                code.parse().is_ok_and(is_unavailable_sqlite)
            }
        }),
        _ => false,
    }
}

/// Connection exceptions, no room on the disk, too many connections, and a server that starts or
/// stops.
fn is_unavailable_postgres(code: &str) -> bool {
    code.starts_with("08") || code.starts_with("57P") || matches!(code, "53100" | "53300" | "58030")
}

/// No room on the disk, no descriptor left, a disk that fails: all of these may pass. The low byte
/// is the code. The rest says what was being done.
fn is_unavailable_sqlite(code: u32) -> bool {
    const IOERR: u32 = 10;
    const FULL: u32 = 13;
    const CANTOPEN: u32 = 14;
    matches!(code & 0xff, IOERR | FULL | CANTOPEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_told_from_what_will_not() {
        // SQLITE_FULL, SQLITE_IOERR_WRITE, SQLITE_CANTOPEN_FULLPATH.
        for code in [13, 778, 782] {
            assert!(is_unavailable_sqlite(code), "{code}");
        }
        // SQLITE_CONSTRAINT_UNIQUE, SQLITE_CORRUPT, SQLITE_ERROR.
        for code in [2067, 11, 1] {
            assert!(!is_unavailable_sqlite(code), "{code}");
        }
        for (code, passes) in [
            ("53100", true),
            ("57P01", true),
            ("08006", true),
            ("23505", false),
        ] {
            assert_eq!(is_unavailable_postgres(code), passes, "{code}");
        }
    }
}
