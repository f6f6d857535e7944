//! The events of the fleet for watchers. The store is read once for all of them.
//!
//! A watcher first reads the events it has missed from the store, at its own pace. Then it gets
//! each new batch from a broadcast channel. Cursors have no gaps, so it notices a missing event and
//! reads the store again. The channel keeps a limited number of batches: a watcher that falls
//! behind is cut off, with the cursor to go on from.

use std::{sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{Awaited, await_change};
use crate::{
    clock::Timestamp,
    error::{busy, chain, cursor_gone, going_away, slow_reader},
    store::{EventRow, Scope, View},
};

/// Events read at once.
const READ: u32 = 500;
/// Batches kept for slower watchers: some seconds of a busy fleet.
const KEPT: usize = 64;
/// Most watchers at a time.
const MAX_WATCHERS: usize = 1000;

/// Events that are broadcast. An empty batch says that events may have been missed.
type Batch = Arc<[EventRow]>;

/// Reads the fleet's events and broadcasts them.
#[derive(Debug)]
pub struct Feed {
    /// What the server sees: it reads for every watcher.
    view: View,
    live: broadcast::Sender<Batch>,
    permits: Arc<Semaphore>,
}

/// A place among the watchers, given back when it is dropped.
#[derive(Debug)]
pub struct WatcherPermit {
    _permit: OwnedSemaphorePermit,
}

/// Where a watcher begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// After this event, or with the oldest that is kept when it is 0.
    After(u64),
    /// With the oldest that is kept and did not happen before this moment.
    Since(Timestamp),
    /// With the next event.
    Now,
}

/// The events as one watcher takes them.
#[derive(Debug)]
pub struct Follower {
    view: View,
    /// What this watcher may see.
    scope: Scope,
    live: broadcast::Receiver<Batch>,
    draining: CancellationToken,
    cursor: u64,
    caught_up: bool,
    _permit: WatcherPermit,
}

impl Feed {
    /// Nobody watches yet. `view` sees the events of every watcher.
    #[must_use]
    pub fn new(view: View) -> Self {
        Self {
            view,
            live: broadcast::Sender::new(KEPT),
            permits: Arc::new(Semaphore::new(MAX_WATCHERS)),
        }
    }

    /// Reads for as long as somebody watches, until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut changes = self.view.changes();
        let mut cursor = None;
        loop {
            match await_change(&mut changes, &stop).await {
                Awaited::Change => changes.mark_unchanged(),
                Awaited::Stop => return,
            }
            if let Err(error) = self.pass(&mut cursor).await {
                tracing::warn!(error = %chain(&error), "watchers wait for the store");
            }
        }
    }

    async fn pass(&self, cursor: &mut Option<u64>) -> crate::store::Result<()> {
        while self.live.receiver_count() > 0 {
            let Some(after) = *cursor else {
                // Watchers read earlier events themselves.
                *cursor = Some(self.view.event_bounds().await?.newest);
                let _ = self.live.send(Arc::new([]));
                continue;
            };
            let events = self.view.events_after(after, READ).await?;
            let Some(last) = events.last() else {
                return Ok(());
            };
            *cursor = Some(last.cursor);
            // It fails when the last watcher has gone meanwhile.
            let _ = self.live.send(events.into());
        }
        *cursor = None;
        Ok(())
    }

    /// How many watch now.
    #[must_use]
    pub fn watchers(&self) -> usize {
        MAX_WATCHERS - self.permits.available_permits()
    }

    /// A place for one more watcher, of devices, of a deployment or of events.
    ///
    /// # Errors
    /// When there are too many.
    pub fn watcher_permit(&self) -> Result<WatcherPermit, Status> {
        let permit = Arc::clone(&self.permits).try_acquire_owned();
        permit
            .map(|permit| WatcherPermit { _permit: permit })
            .map_err(|_| busy("too many watchers", Duration::from_secs(5)))
    }

    /// Follows the events that `scope` shows, from `start` until `draining`.
    ///
    /// # Errors
    /// `OUT_OF_RANGE` when what follows `start` is not kept any more, or never was.
    pub async fn follow(
        &self,
        scope: Scope,
        start: Start,
        draining: CancellationToken,
    ) -> Result<Follower, Status> {
        let permit = self.watcher_permit()?;
        let bounds = self.view.event_bounds().await?;
        let cursor = match start {
            Start::Now => bounds.newest,
            Start::Since(moment) => {
                let first = self.view.first_event_since(moment).await?;
                first.map_or(bounds.newest, |cursor| cursor.saturating_sub(1))
            }
            Start::After(cursor) if bounds.reach(cursor) => cursor,
            Start::After(cursor) => {
                return Err(cursor_gone(cursor, bounds.oldest, bounds.newest));
            }
        };
        Ok(Follower {
            view: self.view.clone(),
            scope,
            live: self.live.subscribe(),
            draining,
            cursor,
            caught_up: false,
            _permit: permit,
        })
    }
}

impl Follower {
    /// The newest event it has taken.
    #[must_use]
    pub const fn cursor(&self) -> u64 {
        self.cursor
    }

    /// The next events that the watcher may see; none when all that came are out of its sight.
    ///
    /// # Errors
    /// When the server stops, the store does not answer, or the watcher fell behind.
    pub async fn next(&mut self) -> Result<Vec<EventRow>, Status> {
        let mut events = self.next_of_all().await?;
        events.retain(|event| event.is_in(self.scope));
        Ok(events)
    }

    /// The next events of the fleet, at least one.
    async fn next_of_all(&mut self) -> Result<Vec<EventRow>, Status> {
        loop {
            if !self.caught_up {
                // Before the read, so that no event falls between the two.
                self.live = self.live.resubscribe();
                let events = self.view.events_after(self.cursor, READ).await?;
                self.caught_up = events.len() < READ as usize;
                if let Some(last) = events.last() {
                    self.cursor = last.cursor;
                    return Ok(events);
                }
            }
            let batch = tokio::select! {
                () = self.draining.cancelled() => return Err(going_away()),
                batch = self.live.recv() => batch,
            };
            match batch {
                Ok(batch) => {
                    let events = self.unseen(&batch);
                    if let Some(last) = events.last() {
                        self.cursor = last.cursor;
                        return Ok(events);
                    }
                }
                Err(broadcast::error::RecvError::Lagged(_)) => return Err(self.fell_behind()),
                Err(broadcast::error::RecvError::Closed) => return Err(going_away()),
            }
        }
    }

    /// The events of a batch that come next. None if events before them are missing; the store is
    /// read then.
    fn unseen(&mut self, batch: &Batch) -> Vec<EventRow> {
        let newer = batch.iter().filter(|event| event.cursor > self.cursor);
        let events: Vec<EventRow> = newer.cloned().collect();
        let follows = events
            .first()
            .is_some_and(|first| first.cursor == self.cursor + 1);
        if follows {
            return events;
        }
        self.caught_up = !batch.is_empty() && events.is_empty();
        Vec::new()
    }

    fn fell_behind(&self) -> Status {
        slow_reader(format!(
            "the watcher did not keep up; go on after event {}",
            self.cursor
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    use crate::{
        clock::Clock,
        store::{Caller, Store},
    };

    async fn store() -> (Store, tempfile::TempDir) {
        let dir = tempfile::tempdir().expect("a folder");
        let url = format!("sqlite://{}", dir.path().join("test.db").display());
        let store = Store::open(&url, Clock::system()).await.expect("opens");
        store.migrate().await.expect("migrates");
        (store, dir)
    }

    fn every(store: &Store) -> View {
        store.for_operators().view(Scope::Everything)
    }

    async fn happen(store: &Store, times: usize) {
        for n in 0..times {
            let caller = Caller {
                name: "ada".into(),
                scope: Scope::Everything,
                request: None,
                method: "UploadBundle",
                origin: crate::store::Origin::default(),
            };
            let bundle = crate::store::NewBundle {
                name: "app".into(),
                version: uuid::Uuid::now_v7().to_string(),
                digest: kernex_proto::ids::Digest::of(&n.to_be_bytes()),
                size: 1,
                format: kernex_proto::v1::BundleFormat::TarGz,
                manifest_json: "{}".into(),
                unpacked_bytes: 0,
                entries: 0,
                signatures: Vec::new(),
            };
            let operators = store.for_operators();
            let inserted = operators.insert_bundle(&caller, bundle).await;
            inserted.expect("an event happens");
        }
    }

    async fn take(follower: &mut Follower, many: usize) -> Vec<u64> {
        let mut cursors = Vec::new();
        while cursors.len() < many {
            let events = follower.next().await.expect("events come");
            cursors.extend(events.iter().map(|event| event.cursor));
        }
        cursors
    }

    #[tokio::test]
    async fn each_watcher_sees_every_event_once_wherever_it_begins() {
        let (store, _dir) = store().await;
        let feed = Arc::new(Feed::new(every(&store)));
        let stop = CancellationToken::new();
        let running = Arc::clone(&feed).run(stop.clone());
        let watching = async {
            happen(&store, 3).await;
            let mut early = feed
                .follow(Scope::Everything, Start::After(1), stop.clone())
                .await
                .expect("follows");
            let mut late = feed
                .follow(Scope::Everything, Start::Now, stop.clone())
                .await
                .expect("follows");
            assert_eq!(feed.watchers(), 2);
            assert_eq!(take(&mut early, 2).await, [2, 3]);
            happen(&store, 2).await;
            assert_eq!(take(&mut early, 2).await, [4, 5]);
            assert_eq!(take(&mut late, 2).await, [4, 5]);
            drop((early, late));
            assert_eq!(feed.watchers(), 0);
            happen(&store, 1).await;
            let mut again = feed
                .follow(Scope::Everything, Start::After(5), stop.clone())
                .await
                .expect("follows");
            assert_eq!(take(&mut again, 1).await, [6]);
            stop.cancel();
            let status = again.next().await.expect_err("the server stops");
            assert_eq!(status.code(), Code::Unavailable);
        };
        tokio::join!(running, watching);
    }

    #[tokio::test]
    async fn one_that_does_not_keep_up_is_cut_off_and_told_where_to_go_on() {
        let (store, _dir) = store().await;
        let feed = Feed::new(every(&store));
        happen(&store, 1).await;
        let mut slow = feed
            .follow(Scope::Everything, Start::After(0), CancellationToken::new())
            .await
            .expect("follows");
        assert_eq!(take(&mut slow, 1).await, [1]);
        let row = every(&store)
            .events_after(0, 1)
            .await
            .expect("reads")
            .remove(0);
        for cursor in 2..KEPT as u64 + 3 {
            let event = EventRow {
                cursor,
                ..row.clone()
            };
            feed.live.send(Arc::new([event])).expect("one watches");
        }
        let status = slow.next().await.expect_err("it fell behind");
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(
            status.message().ends_with("go on after event 1"),
            "{status}"
        );
    }

    #[tokio::test]
    async fn a_cursor_that_is_not_reached_any_more_is_refused() {
        let (store, _dir) = store().await;
        let feed = Feed::new(every(&store));
        happen(&store, 1).await;
        let ahead = feed
            .follow(Scope::Everything, Start::After(9), CancellationToken::new())
            .await;
        assert_eq!(ahead.expect_err("never was").code(), Code::OutOfRange);
    }
}
