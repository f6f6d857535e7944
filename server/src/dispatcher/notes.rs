//! Pushes that the rows do not know of yet. Most devices answer before that has to be written, and what they answer says so too.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kernex_proto::ids::AttemptId;
use tokio::{sync::Notify, time::Instant};

use crate::store::{Result, Store};

/// Longest time a push is written behind. Whatever is asked meanwhile finds the attempt pending, and the claim in the
/// registry keeps it from being pushed once more.
const BEHIND: Duration = Duration::from_secs(1);

/// Deploys that were pushed, the sessions they were pushed in, and since when the first of them waits to be written.
#[derive(Debug, Default)]
pub struct Notes {
    waiting: Mutex<Waiting>,
    began: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    sent: HashMap<AttemptId, u64>,
    since: Option<Instant>,
}

impl Notes {
    /// Takes note of pushes.
    pub(super) fn add(&self, sent: impl IntoIterator<Item = (AttemptId, u64)>) {
        let mut waiting = self.lock();
        waiting.sent.extend(sent);
        if waiting.since.is_none() && !waiting.sent.is_empty() {
            waiting.since = Some(Instant::now());
            self.began.notify_one();
        }
    }

    /// What the device said about this attempt is written, which also says that it was pushed.
    pub fn answered(&self, attempt: AttemptId) {
        self.lock().sent.remove(&attempt);
    }

    /// How many wait to be written.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.lock().sent.len()
    }

    /// Waits until some have to be written.
    pub(super) async fn due(&self) {
        loop {
            let since = self.lock().since;
            match since {
                Some(since) => return tokio::time::sleep_until(since + BEHIND).await,
                None => self.began.notified().await,
            }
        }
    }

    /// Writes what waits, behind or because somebody is about to decide by it. What cannot be written waits on.
    pub async fn write(&self, store: &Store) -> Result<()> {
        let waiting = std::mem::take(&mut *self.lock());
        let sent: Vec<_> = waiting.sent.into_iter().collect();
        let written = store.mark_sent(&sent).await;
        if written.is_err() {
            self.add(sent);
        }
        written
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use kernex_proto::ids::TargetId;

    use super::*;

    fn attempt() -> AttemptId {
        AttemptId {
            target: TargetId::generate(),
            number: 1,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_push_says_when_they_are_written_and_answers_leave_nothing_to_write() {
        let notes = Notes::default();
        let never = tokio::time::timeout(BEHIND * 100, notes.due()).await;
        assert!(never.is_err(), "there is nothing to write");
        let (first, second) = (attempt(), attempt());
        let begun = Instant::now();
        notes.add([(first, 1)]);
        tokio::time::advance(BEHIND / 2).await;
        notes.add([(second, 1)]);
        notes.due().await;
        assert_eq!(begun.elapsed(), BEHIND);
        notes.answered(first);
        assert_eq!(notes.waiting(), 1);
        notes.answered(second);
        assert_eq!(notes.waiting(), 0);
    }
}
