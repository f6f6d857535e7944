//! Every statement that is written as text. The ORM has no words for a few things: locks that are
//! not about rows, the clock of a database, moving a log, and the row that an insert met.
//! Everything else is typed.

use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, Statement,
    sea_query::{Alias, Expr, Func, IntoIden},
};
use sqlx::{Connection, Executor};

use crate::store::db::error::{Result, StoreError};

/// Key of PostgreSQL's advisory lock of the writers: "kernex" in ASCII.
const WRITER_LOCK: i64 = 0x6b65_726e_6578;

/// Key of the advisory lock of migrations: "kernexm" in ASCII.
const MIGRATION_LOCK: i64 = 0x6b_6572_6e65_786d;

/// Takes the lock, if asked to, and reads the database's clock in the same round trip. The clock is
/// read once the lock is held.
pub(super) async fn postgres_now(db: &DatabaseTransaction, lock: bool) -> Result<i64> {
    let sql = if lock {
        "SELECT pg_advisory_xact_lock($1), (extract(epoch from clock_timestamp()) * 1000000)::bigint AS now"
    } else {
        "SELECT $1::bigint, (extract(epoch from clock_timestamp()) * 1000000)::bigint AS now"
    };
    let statement = Statement::from_sql_and_values(DbBackend::Postgres, sql, [WRITER_LOCK.into()]);
    let row = db.query_one_raw(statement).await?;
    let row = row.ok_or_else(|| DbErr::RecordNotFound("the database's clock".into()))?;
    Ok(row.try_get::<i64>("", "now")?)
}

/// Moves the log of SQLite into its file.
pub(super) async fn move_log(db: &DatabaseConnection) -> Result<()> {
    db.execute_unprepared("PRAGMA wal_checkpoint(PASSIVE)")
        .await?;
    Ok(())
}

/// Removes the time limit of the statements of a transaction.
pub(crate) async fn no_time_limit(db: &impl ConnectionTrait) -> Result<()> {
    if db.get_database_backend() == DbBackend::Postgres {
        db.execute_unprepared("SET LOCAL statement_timeout = 0")
            .await?;
    }
    Ok(())
}

/// Makes replicas that migrate at the same time take turns. The lock is held as long as the
/// connection lives.
pub(crate) async fn lock_migrations(db: &DatabaseConnection) -> Result<Option<sqlx::PgConnection>> {
    if db.get_database_backend() != DbBackend::Postgres {
        return Ok(None);
    }
    let options = db.get_postgres_connection_pool().connect_options();
    let mut connection = sqlx::PgConnection::connect_with(&options)
        .await
        .map_err(unavailable)?;
    let lock = sqlx::query("SELECT pg_advisory_lock($1)").bind(MIGRATION_LOCK);
    connection.execute(lock).await.map_err(unavailable)?;
    Ok(Some(connection))
}

fn unavailable(error: sqlx::Error) -> StoreError {
    DbErr::Conn(sea_orm::RuntimeErr::SqlxError(std::sync::Arc::new(error))).into()
}

/// In the `ON CONFLICT` of an insert: a column of the row that could not be inserted.
pub(crate) fn inserted(column: impl IntoIden) -> Expr {
    Expr::col((Alias::new("excluded"), column))
}

/// A column of a list of values, which is joined under a name. The first column is number 1.
pub(crate) fn value(list: &'static str, number: u8) -> Expr {
    Expr::col((list, format!("column{number}")))
}

/// The last characters of a text, cut by the database.
pub(crate) fn end_of(text: Expr, characters: i32, database: DbBackend) -> Expr {
    match database {
        DbBackend::Postgres => Func::cust("right").arg(text).arg(characters).into(),
        _ => Func::cust("substr").arg(text).arg(-characters).into(),
    }
}
