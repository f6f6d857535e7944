//! The connection of a transaction, which collects writes.
//!
//! SQLite runs on a thread of its own. Each statement by itself costs two changes of thread, which
//! is more than most statements cost. So writes whose answers nobody needs [wait](Db::later). They
//! go along with the next statement that somebody waits for, or with the commit. A read sees every
//! write before it.

use parking_lot::Mutex;
use sea_orm::{
    ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, ExecResult, QueryResult, Statement,
    StatementBuilder, Values, prelude::async_trait::async_trait,
};

/// Most bound values of statements that go together. Larger statements cost more than the change of
/// thread. And a connection caches prepared statements by their text: long texts in all
/// combinations would fill its cache.
const MOST_VALUES: usize = 128;

/// The connection of an open transaction.
pub(crate) struct Db {
    inner: DatabaseTransaction,
    waiting: Mutex<Vec<Statement>>,
}

impl Db {
    pub(crate) const fn new(inner: DatabaseTransaction) -> Self {
        Self {
            inner,
            waiting: Mutex::new(Vec::new()),
        }
    }

    /// Runs a write later, in order and before the commit. When it fails, the statement that it
    /// went along with fails, too.
    pub(crate) async fn later(&self, write: &impl StatementBuilder) -> Result<(), DbErr> {
        let write = self.inner.get_database_backend().build(write);
        let values = {
            let mut waiting = self.waiting.lock();
            waiting.push(write);
            waiting.iter().map(values).sum::<usize>()
        };
        if values > MOST_VALUES {
            self.flush().await?;
        }
        Ok(())
    }

    pub(crate) async fn commit(self) -> Result<(), DbErr> {
        self.flush().await?;
        self.inner.commit().await
    }

    pub(crate) async fn rollback(self) -> Result<(), DbErr> {
        self.inner.rollback().await
    }

    /// Runs the writes that wait.
    async fn flush(&self) -> Result<(), DbErr> {
        let waiting = std::mem::take(&mut *self.waiting.lock());
        for message in self.messages(waiting) {
            self.inner.execute_raw(message).await?;
        }
        Ok(())
    }

    /// Runs the writes that wait. Returns the statement to run now: `question`, with what can go
    /// along with it.
    async fn after_what_waits(&self, question: Statement) -> Result<Statement, DbErr> {
        let mut waiting = std::mem::take(&mut *self.waiting.lock());
        waiting.push(question);
        let mut messages = self.messages(waiting);
        let last = messages.pop();
        for message in messages {
            self.inner.execute_raw(message).await?;
        }
        last.ok_or_else(|| DbErr::Custom("a question went missing".into()))
    }

    /// Statements as the database takes them. SQLite's driver runs a text of several statements,
    /// PostgreSQL's takes one at a time.
    fn messages(&self, statements: Vec<Statement>) -> Vec<Statement> {
        match self.inner.get_database_backend() {
            DbBackend::Sqlite => join_small(statements),
            _ => statements,
        }
    }
}

fn values(statement: &Statement) -> usize {
    statement.values.as_ref().map_or(0, |values| values.0.len())
}

/// Joins neighbours as long as they are small together.
fn join_small(statements: Vec<Statement>) -> Vec<Statement> {
    let mut joined: Vec<Statement> = Vec::with_capacity(1);
    for next in statements {
        match joined.last_mut() {
            Some(last) if values(last) + values(&next) <= MOST_VALUES => {
                last.sql.push_str("; ");
                last.sql.push_str(&next.sql);
                let last = last.values.get_or_insert_with(|| Values(Vec::new()));
                last.0
                    .extend(next.values.into_iter().flat_map(|next| next.0));
            }
            _ => joined.push(next),
        }
    }
    joined
}

#[async_trait]
impl ConnectionTrait for Db {
    fn get_database_backend(&self) -> DbBackend {
        self.inner.get_database_backend()
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        // Alone, because the caller is told how many rows it changed.
        self.flush().await?;
        self.inner.execute_raw(statement).await
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        self.flush().await?;
        self.inner.execute_unprepared(sql).await
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        let question = self.after_what_waits(statement).await?;
        self.inner.query_one_raw(question).await
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        let question = self.after_what_waits(statement).await?;
        self.inner.query_all_raw(question).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_neighbours_travel_together_and_in_order() {
        let statement = |text: &str, values: usize| {
            let values = vec![sea_orm::Value::from(1); values];
            Statement::from_sql_and_values(DbBackend::Sqlite, text, values)
        };
        let plain = |text| Statement::from_string(DbBackend::Sqlite, text);
        let texts = |statements: Vec<Statement>| {
            let joined = join_small(statements).into_iter();
            let counted = joined.map(|one| (values(&one), one.sql));
            counted.collect::<Vec<_>>()
        };
        assert_eq!(texts(Vec::new()), []);
        let all = vec![
            plain("a"),
            statement("b", 100),
            statement("c", 28),
            statement("d", 1),
            statement("e", 3_000),
            statement("f", 2),
            plain("g"),
        ];
        let expected = [(128, "a; b; c"), (1, "d"), (3_000, "e"), (2, "f; g")];
        let expected = expected.map(|(count, text)| (count, text.to_owned()));
        assert_eq!(texts(all), expected);
    }
}
