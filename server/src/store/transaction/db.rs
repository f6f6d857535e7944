//! A transaction's connection, on which writes do not wait for one another.
//!
//! SQLite runs on a thread of its own, and each statement that is asked for by itself is two changes of thread, which cost more than
//! most statements do. So writes whose answers nobody needs [wait](Db::later) and travel with the next statement somebody
//! does wait for, or with the commit. Whoever reads sees what was written before.

use std::sync::{Mutex, MutexGuard, PoisonError};

use sea_orm::{
    ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, ExecResult, QueryResult, Statement,
    StatementBuilder, prelude::async_trait::async_trait,
};

/// Bound values after which writes do not wait any more: by then the statements cost more than the way to them, and memory is
/// bounded.
const MOST_VALUES: usize = 512;

/// An open transaction to ask.
pub(crate) struct Db {
    inner: DatabaseTransaction,
    waiting: Mutex<Vec<Statement>>,
}

impl Db {
    pub(super) const fn new(inner: DatabaseTransaction) -> Self {
        Self {
            inner,
            waiting: Mutex::new(Vec::new()),
        }
    }

    /// Runs a write in its turn, at the latest before the commit. When it fails, so does what came after it.
    pub(crate) async fn later(&self, write: &impl StatementBuilder) -> Result<(), DbErr> {
        let write = self.inner.get_database_backend().build(write);
        let values = {
            let mut waiting = self.lock();
            waiting.push(write);
            waiting.iter().map(values).sum::<usize>()
        };
        if values < MOST_VALUES {
            return Ok(());
        }
        self.flush().await
    }

    pub(super) async fn commit(self) -> Result<(), DbErr> {
        self.flush().await?;
        self.inner.commit().await
    }

    pub(super) async fn rollback(self) -> Result<(), DbErr> {
        self.inner.rollback().await
    }

    /// Runs what waits.
    async fn flush(&self) -> Result<(), DbErr> {
        let waiting = std::mem::take(&mut *self.lock());
        for message in self.messages(waiting) {
            self.inner.execute_raw(message).await?;
        }
        Ok(())
    }

    /// Runs what waits; gives a statement to ask for an answer, with what can travel with it.
    async fn after_what_waits(&self, question: Statement) -> Result<Statement, DbErr> {
        let mut waiting = std::mem::take(&mut *self.lock());
        waiting.push(question);
        let mut messages = self.messages(waiting);
        let last = messages.pop();
        for message in messages {
            self.inner.execute_raw(message).await?;
        }
        last.ok_or_else(|| DbErr::Custom("a question went missing".into()))
    }

    /// As few statements as the database takes them in: SQLite's driver runs a text of several, PostgreSQL's takes one at a time.
    fn messages(&self, statements: Vec<Statement>) -> Vec<Statement> {
        if statements.len() < 2 || self.inner.get_database_backend() != DbBackend::Sqlite {
            return statements;
        }
        let texts: Vec<&str> = statements.iter().map(|one| one.sql.as_str()).collect();
        let text = texts.join("; ");
        let values = statements
            .into_iter()
            .filter_map(|statement| statement.values)
            .flat_map(|values| values.0);
        vec![Statement::from_sql_and_values(
            DbBackend::Sqlite,
            text,
            values,
        )]
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Statement>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn values(statement: &Statement) -> usize {
    statement.values.as_ref().map_or(0, |values| values.0.len())
}

#[async_trait]
impl ConnectionTrait for Db {
    fn get_database_backend(&self) -> DbBackend {
        self.inner.get_database_backend()
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        // By itself, because it is asked for the number of its rows.
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
