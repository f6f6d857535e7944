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
const BEHIND: Duration = Duration::from_secs(2);

/// Deploys that were pushed, the sessions they were pushed in, and since when the first of them waits to be written.
#[derive(Debug, Default)]
pub struct Notes {
    waiting: Mutex<Waiting>,
    began: Notify,
    writing: tokio::sync::Mutex<()>,
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

    /// Writes what waits, behind or because somebody is about to decide by it. What is not written, because the store failed or
    /// because whoever asked for it went away, waits on.
    pub async fn write(&self, store: &Store) -> Result<()> {
        // Who decides waits for what is being written, too.
        let _turn = self.writing.lock().await;
        let sent: Vec<_> = {
            let mut waiting = self.lock();
            // Of the next try, should this one fail.
            waiting.since = (!waiting.sent.is_empty()).then(Instant::now);
            waiting
                .sent
                .iter()
                .map(|(of, epoch)| (*of, *epoch))
                .collect()
        };
        store.mark_sent(&sent).await?;
        let mut waiting = self.lock();
        for (attempt, epoch) in sent {
            // It may have been pushed in a newer session meanwhile.
            if waiting.sent.get(&attempt) == Some(&epoch) {
                waiting.sent.remove(&attempt);
            }
        }
        Ok(())
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
        assert_eq!(notes.lock().sent.len(), 1);
        notes.answered(second);
        assert_eq!(notes.lock().sent.len(), 0);
    }
}
