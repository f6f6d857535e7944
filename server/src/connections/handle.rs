//! A connection as the calls on it see it: a hand on the one thing they may do to it.

use std::{
    future::poll_fn,
    sync::{Arc, OnceLock},
    task::Poll,
};

use futures::task::AtomicWaker;

/// Found in the extensions of each request. Clones mean the same connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct ConnectionHandle(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Why it is to be closed, once it is.
    why: OnceLock<&'static str>,
    task: AtomicWaker,
}

impl ConnectionHandle {
    /// Cuts the connection with everything on it: for a peer that would not hear of a smaller end. `why` goes to the log.
    pub(crate) fn close(&self, why: &'static str) {
        // The first reason counts.
        let _ = self.0.why.set(why);
        self.0.task.wake();
    }

    /// Tells connections apart for as long as one of their handles lives.
    pub(crate) fn key(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    /// Waits until somebody closes it; for its task, which is the only one that may wait.
    pub(crate) async fn closed(&self) -> &'static str {
        poll_fn(|context| {
            self.0.task.register(context.waker());
            self.0
                .why
                .get()
                .map_or(Poll::Pending, |why| Poll::Ready(*why))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn closing_reaches_the_task_and_the_first_reason_counts() {
        let handle = ConnectionHandle::default();
        let other = handle.clone();
        let (why, ()) = tokio::join!(handle.closed(), async {
            tokio::task::yield_now().await;
            other.close("first");
            other.close("second");
        });
        assert_eq!(why, "first");
        assert_eq!(handle.closed().await, "first", "also for who asks later");
        assert_eq!(handle.key(), other.key());
        assert_ne!(handle.key(), ConnectionHandle::default().key());
    }
}
