//! The moment of a commit, seen from outside, and what one durable commit costs.

use std::{
    fs::File,
    num::NonZeroU64,
    os::unix::fs::FileExt as _,
    path::Path,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use kernex_integration_tests::TestServer;
use rustix::thread::set_current_timer_slack;
use sqlx::{
    Connection as _, Executor as _, PgConnection, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

/// No commit of one small order takes longer.
const LIMIT: Duration = Duration::from_secs(10);

/// Between two looks for a commit.
const LOOK: Duration = Duration::from_micros(20);

/// Watches SQLite's WAL index: it counts a commit in the moment in which readers see it, after it
/// is durable.
#[derive(Debug)]
pub(crate) struct Commits(File);

impl Commits {
    /// Those of a server on SQLite.
    pub(crate) fn of(server: &TestServer) -> Option<Self> {
        if server.database_url().is_some() {
            return None;
        }
        let index = server.data().join("kernex.db-shm");
        File::open(index).ok().map(Self)
    }

    /// The moment of the next commit. It is the last look that did not see it, so a time from there
    /// is rather too long than too short. The thread sleeps between two looks, because the load
    /// runs on the same core.
    pub(crate) fn watch(&mut self) -> JoinHandle<Option<Instant>> {
        let file = self.0.try_clone();
        let before = file.as_ref().ok().and_then(counter);
        std::thread::spawn(move || {
            // Without this each sleep takes 50 us longer.
            let _ = set_current_timer_slack(NonZeroU64::new(1));
            let (file, limit) = (file.ok()?, Instant::now() + LIMIT);
            let mut unseen = Instant::now();
            loop {
                let now = Instant::now();
                if counter(&file) != before {
                    return Some(unseen);
                }
                if now > limit {
                    return None;
                }
                unseen = now;
                std::thread::sleep(LOOK);
            }
        })
    }
}

/// The WAL index's counter of commits.
fn counter(file: &File) -> Option<[u8; 4]> {
    let mut bytes = [0; 4];
    file.read_exact_at(&mut bytes, 8).ok()?;
    Some(bytes)
}

/// What it takes to commit one small row durably, in microseconds: in the database at `url`, else
/// in SQLite beside the server's own file and with its settings.
pub(crate) async fn durable(
    url: Option<&str>,
    folder: &Path,
    samples: usize,
) -> anyhow::Result<Histogram<u64>> {
    let mut took = Histogram::new(3)?;
    let create = "CREATE TABLE commits (id INTEGER PRIMARY KEY, said TEXT)";
    let insert = "INSERT INTO commits (id, said) VALUES ($1, 'one small row, as durable as any')";
    if let Some(url) = url {
        let mut db = PgConnection::connect(url).await?;
        db.execute(create).await?;
        for id in 0..i32::try_from(samples)? {
            let begun = Instant::now();
            sqlx::query(insert).bind(id).execute(&mut db).await?;
            took.record(u64::try_from(begun.elapsed().as_micros())?)?;
        }
        return Ok(took);
    }
    let options = SqliteConnectOptions::new()
        .filename(folder.join("commits.db"))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full);
    let mut db = SqliteConnection::connect_with(&options).await?;
    db.execute(create).await?;
    for id in 0..i32::try_from(samples)? {
        let begun = Instant::now();
        sqlx::query(insert).bind(id).execute(&mut db).await?;
        took.record(u64::try_from(begun.elapsed().as_micros())?)?;
    }
    Ok(took)
}
