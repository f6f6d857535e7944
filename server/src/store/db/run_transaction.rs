//! Runs the closure of a transaction: begin, stamp, work, commit, tell. It runs again when the
//! database asks for that.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rand::RngExt as _;
use sea_orm::{
    AccessMode, ConnectionTrait as _, DatabaseTransaction, DbBackend, DbErr, IsolationLevel,
    SqliteTransactionMode, TransactionOptions, TransactionTrait as _,
};

use crate::{
    backoff::doubling,
    crash::Act,
    metrics::observe,
    store::db::{
        error::{Result, StoreError},
        failures::is_retryable,
        raw::postgres_now,
        store::Store,
        tell::tell,
        transaction::{Deciding, Tx},
    },
};

const MAX_TRIES: u32 = 12;

/// Ceilings of the pauses between tries: the first and the highest.
const RETRY: (Duration, Duration) = (Duration::from_millis(8), Duration::from_millis(1024));

impl Store {
    /// Runs `work` in a transaction, and again when the database asks for that. `work` must not
    /// keep the handle that it is given.
    pub(crate) async fn write<T, F, Fut>(&self, work: F) -> Result<T>
    where
        F: Fn(Arc<Tx>) -> Fut + Send,
        Fut: Future<Output = Result<T>> + Send,
        T: Send,
    {
        self.write_as(Act::CommitOther, work).await
    }

    /// [`write`](Self::write) under a name by which tests of crashes know it.
    pub(crate) async fn write_as<T, F, Fut>(&self, act: Act, work: F) -> Result<T>
    where
        F: Fn(Arc<Tx>) -> Fut + Send,
        Fut: Future<Output = Result<T>> + Send,
        T: Send,
    {
        Box::pin(self.run(act, true, work)).await
    }

    /// [`write_as`](Self::write_as) for changes that may close attempts, or keep them from
    /// beginning.
    pub(crate) async fn decide_as<T, F, Fut>(&self, act: Act, work: F) -> Result<T>
    where
        F: Fn(Deciding) -> Fut + Send + Sync,
        Fut: Future<Output = Result<T>> + Send,
        T: Send,
    {
        let decision = Arc::new(self.in_flight().begin_decision());
        let deciding = |tx| {
            let decision = Arc::clone(&decision);
            work(Deciding::new(tx, decision))
        };
        let decided = self.write_as(act, deciding).await?;
        decision.mark_committed();
        Ok(decided)
    }

    /// [`decide_as`](Self::decide_as) without a name of its own.
    pub(crate) async fn decide<T, F, Fut>(&self, work: F) -> Result<T>
    where
        F: Fn(Deciding) -> Fut + Send + Sync,
        Fut: Future<Output = Result<T>> + Send,
        T: Send,
    {
        self.decide_as(Act::CommitOther, work).await
    }

    /// [`write`](Self::write) without the writers' lock. For rows that nobody else writes, and
    /// without events.
    pub(crate) async fn write_beside<T, F, Fut>(&self, work: F) -> Result<T>
    where
        F: Fn(Arc<Tx>) -> Fut + Send,
        Fut: Future<Output = Result<T>> + Send,
        T: Send,
    {
        self.write_beside_as(Act::CommitBeside, work).await
    }

    /// [`write_beside`](Self::write_beside) under a name by which tests of crashes know it.
    pub(crate) async fn write_beside_as<T, F, Fut>(&self, act: Act, work: F) -> Result<T>
    where
        F: Fn(Arc<Tx>) -> Fut + Send,
        Fut: Future<Output = Result<T>> + Send,
        T: Send,
    {
        Box::pin(self.run(act, false, work)).await
    }

    async fn run<T, F, Fut>(&self, act: Act, lock: bool, work: F) -> Result<T>
    where
        F: Fn(Arc<Tx>) -> Fut + Send,
        Fut: Future<Output = Result<T>> + Send,
        T: Send,
    {
        let mut tries = 1;
        let mut ceilings = doubling(RETRY.0, RETRY.1);
        let started = Instant::now();
        let figures = self.figures();
        loop {
            match self.attempt(act, lock, &work).await {
                Err(StoreError::Db(error)) if is_retryable(&error) => {
                    if tries >= MAX_TRIES {
                        figures.ended.with_label("rolled_back").inc();
                        return Err(StoreError::Unavailable(format!("it stays busy: {error}")));
                    }
                    tracing::debug!(tries, %error, "transaction runs again");
                    figures.ended.with_label("retried").inc();
                    // Full jitter, so that two that collided do not collide again.
                    let ceiling = ceilings.next().unwrap_or(RETRY.1);
                    let pause = ceiling.mul_f64(rand::rng().random());
                    tokio::time::sleep(pause).await;
                    tries += 1;
                }
                Ok(value) => {
                    figures.ended.with_label("committed").inc();
                    observe(&figures.took, started.elapsed());
                    return Ok(value);
                }
                Err(error) => {
                    figures.ended.with_label("rolled_back").inc();
                    return Err(error);
                }
            }
        }
    }

    /// For reads that have to see the rows of one moment, in however many queries.
    pub(crate) async fn snapshot(&self) -> Result<DatabaseTransaction> {
        let is_postgres = self.reader().get_database_backend() == DbBackend::Postgres;
        let options = TransactionOptions {
            isolation_level: is_postgres.then_some(IsolationLevel::RepeatableRead),
            access_mode: is_postgres.then_some(AccessMode::ReadOnly),
            sqlite_transaction_mode: None,
        };
        Ok(self.reader().begin_with_options(options).await?)
    }

    async fn attempt<T, F, Fut>(&self, act: Act, lock: bool, work: &F) -> Result<T>
    where
        F: Fn(Arc<Tx>) -> Fut + Send,
        Fut: Future<Output = Result<T>> + Send,
        T: Send,
    {
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        let db = self.writer().begin_with_options(options).await?;
        let (now, is_timely) = match db.get_database_backend() {
            DbBackend::Postgres => self.stamp_from(postgres_now(&db, lock).await?),
            _ => self.stamp(),
        };
        let tx = Arc::new(Tx::new(db, now, is_timely));
        let outcome = work(Arc::clone(&tx)).await;
        let Some(mut tx) = Arc::into_inner(tx) else {
            return Err(StoreError::Db(DbErr::Custom(
                "a transaction outlived its closure".into(),
            )));
        };
        match outcome {
            Ok(value) => {
                let revoked = tx.take_revoked();
                if !revoked.is_empty() {
                    // No other writer can commit before this one.
                    self.revocations().begin();
                }
                act.before();
                let (events, changed) = tx.commit(self.log_events()).await?;
                act.after();
                tell(events, self.figures(), self.log_queue());
                self.revocations().publish(&revoked);
                if changed {
                    self.wake();
                }
                Ok(value)
            }
            Err(error) => {
                // The caller is told the first error. A rollback that fails means a dead
                // connection, which the pool drops.
                if let Err(rollback) = tx.rollback().await {
                    tracing::debug!(error = %rollback, "rollback failed");
                }
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        clock::Clock,
        store::{Scope, db::new_event::Subject},
    };

    #[tokio::test]
    async fn what_is_committed_after_the_disk_was_full_is_there() {
        let dir = tempfile::tempdir().expect("a folder");
        let url = format!("sqlite://{}", dir.path().join("test.db").display());
        let store = Store::open(&url, Clock::system()).await.expect("opens");
        store.migrate().await.expect("migrates");
        let write = async |kind: &str, size: usize| {
            let detail = &json!("x".repeat(size));
            store
                .write(|tx| async move {
                    tx.event(kind, Subject::Nothing, detail.clone());
                    Ok(())
                })
                .await
        };
        // No more pages than there are now: like a full disk.
        let full = "PRAGMA max_page_count = 1";
        store
            .writer()
            .execute_unprepared(full)
            .await
            .expect("limits it");
        let refused = write("large", 1 << 20).await;
        assert!(
            matches!(refused, Err(StoreError::Unavailable(_))),
            "{refused:?}"
        );
        for round in 0..3 {
            let failed = store.write(|_| async { Err::<(), _>(StoreError::NoTargets) });
            assert!(
                matches!(failed.await, Err(StoreError::NoTargets)),
                "{round}"
            );
            write("small", 1).await.expect("there is room again");
            let events = store
                .for_operators()
                .view(Scope::Everything)
                .events_after(0, 10)
                .await
                .expect("another connection reads");
            assert_eq!(events.len(), round + 1);
        }
    }

    #[tokio::test]
    async fn a_clock_that_jumps_while_a_transaction_waits_for_its_turn_is_not_trusted() {
        let dir = tempfile::tempdir().expect("a folder");
        let url = format!("sqlite://{}", dir.path().join("test.db").display());
        let clock = Clock::system();
        let store = Store::open(&url, clock.clone()).await.expect("opens");
        store.migrate().await.expect("migrates");
        let time = async || store.write(|tx| async move { Ok(tx.time()) }).await;
        assert!(time().await.expect("writes").is_some());
        let (begun, jump) = (&tokio::sync::Notify::new(), &clock);
        let first = store.write(|_| async move {
            begun.notify_one();
            // The other transaction begins meanwhile, and has its turn after the jump.
            tokio::task::yield_now().await;
            jump.jump(365 * 24 * 3600);
            Ok(())
        });
        let second = async {
            begun.notified().await;
            time().await
        };
        let (first, second) = tokio::join!(first, second);
        first.expect("writes");
        assert_eq!(second.expect("writes"), None);
    }
}
