//! How the server stops. A soft token asks for an end, a hard one drops everything, and all tasks
//! have an owner that waits for them.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFutureOwned},
    task::TaskTracker,
};
use tracing::{Instrument, Span};

/// `soft` asks all parts to finish, and `hard` ends those that have not. They are fields, never
/// statics.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Stop accepting, drain, finish.
    pub soft: CancellationToken,
    /// Stop at once.
    pub hard: CancellationToken,
}

impl Shutdown {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The first SIGTERM or SIGINT asks softly, and the second ends at once. Never returns before
    /// the second.
    pub async fn follow_signals(self) -> std::io::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        for token in [&self.soft, &self.hard] {
            let signal = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if token.is_cancelled() {
                // The stop was asked for in another way, so this signal is the second one.
                self.hard.cancel();
            }
            tracing::info!(signal, "signal received");
            token.cancel();
        }
        Ok(())
    }
}

pin_project! {
    /// A task with an end from outside. An async block that selects would hold the task twice.
    struct Until<F> {
        #[pin]
        task: F,
        #[pin]
        ended: WaitForCancellationFutureOwned,
    }
}

impl<F: Future<Output = ()>> Future for Until<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        match this.ended.poll(cx) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => this.task.poll(cx),
        }
    }
}

/// The one way to start a task. It has a name and an owner that waits for it, and the hard token
/// ends it.
#[derive(Debug, Clone)]
pub struct Tasks {
    tracker: TaskTracker,
    hard: CancellationToken,
}

impl Tasks {
    /// Tasks that `shutdown.hard` ends at the latest.
    #[must_use]
    pub fn new(shutdown: &Shutdown) -> Self {
        Self {
            tracker: TaskTracker::new(),
            hard: shutdown.hard.clone(),
        }
    }

    /// Starts a task that belongs to a caller, such as a session or an upload.
    pub fn spawn<F>(&self, span: Span, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let ended = self.hard.clone().cancelled_owned();
        self.tracker.spawn(Until { task, ended }.instrument(span));
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.tracker.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }

    /// Waits until all tasks have ended, for at most `limit`. True when all have.
    pub async fn finished(&self, limit: Duration) -> bool {
        self.tracker.close();
        tokio::time::timeout(limit, self.tracker.wait())
            .await
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_hard_token_ends_a_task_that_would_not() {
        let shutdown = Shutdown::new();
        let tasks = Tasks::new(&shutdown);
        tasks.spawn(Span::none(), std::future::pending());
        assert!(!tasks.finished(Duration::from_millis(20)).await);
        shutdown.hard.cancel();
        assert!(tasks.finished(Duration::from_secs(5)).await);
    }
}
