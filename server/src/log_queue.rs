//! Log lines that wait a moment. One line takes as much time as a fifth of a push, so what a commit
//! makes due goes out first: commands to devices, acknowledgements, the answer to the caller.
//!
//! Only lines about what is committed go this way. A server that is killed may lose those of its
//! last milliseconds; the rows and the events have them.

use std::{collections::VecDeque, fmt, time::Duration};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::Span;

/// How long a line waits at least.
const DELAY: Duration = Duration::from_millis(5);
/// Most lines that wait, below a KiB each. What comes beyond is written at once.
const MOST_WAITING: usize = 4_096;

/// A line that can be written later, and the span that it belongs to.
type Line = (Span, Box<dyn FnOnce() + Send>);

/// The lines that wait. While nobody serves the queue, they are written at once.
#[derive(Default)]
pub(crate) struct LogQueue {
    waiting: Mutex<Waiting>,
    filled: Notify,
}

#[derive(Default)]
struct Waiting {
    is_served: bool,
    lines: VecDeque<Line>,
}

impl LogQueue {
    /// Has `write` called within `span`, a moment later.
    pub(crate) fn add(&self, span: Span, write: impl FnOnce() + Send + 'static) {
        let mut waiting = self.waiting.lock();
        if waiting.is_served && waiting.lines.len() < MOST_WAITING {
            waiting.lines.push_back((span, Box::new(write)));
            drop(waiting);
            self.filled.notify_one();
        } else {
            drop(waiting);
            span.in_scope(write);
        }
    }

    /// Writes lines until it is told to stop. No line is left behind, also when it is dropped.
    pub(crate) async fn serve(&self, stop: CancellationToken) {
        let _serving = Serving::begin(self);
        while let Some(()) = stop.run_until_cancelled(self.filled.notified()).await {
            tokio::time::sleep(DELAY).await;
            while let Some((span, write)) = self.next() {
                span.in_scope(write);
                // Whatever else is to be done goes first.
                tokio::task::yield_now().await;
            }
        }
    }

    fn next(&self) -> Option<Line> {
        self.waiting.lock().lines.pop_front()
    }
}

impl fmt::Debug for LogQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogQueue").finish_non_exhaustive()
    }
}

/// While it lives, lines may wait.
struct Serving<'a>(&'a LogQueue);

impl<'a> Serving<'a> {
    fn begin(queue: &'a LogQueue) -> Self {
        queue.waiting.lock().is_served = true;
        Self(queue)
    }
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        self.0.waiting.lock().is_served = false;
        while let Some((span, write)) = self.0.next() {
            span.in_scope(write);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio_util::task::TaskTracker;

    use super::*;

    /// A queue, and what its lines wrote.
    fn queue() -> (Arc<LogQueue>, Arc<Mutex<Vec<usize>>>) {
        (Arc::default(), Arc::default())
    }

    fn add(queue: &LogQueue, written: &Arc<Mutex<Vec<usize>>>, number: usize) {
        let written = Arc::clone(written);
        queue.add(Span::none(), move || written.lock().push(number));
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_waits_for_what_is_ready_and_none_is_lost() {
        let (queue, written) = queue();
        add(&queue, &written, 0);
        assert_eq!(*written.lock(), [0], "nobody serves the queue yet");

        let stop = CancellationToken::new();
        let serving = {
            let (queue, stop) = (Arc::clone(&queue), stop.clone());
            TaskTracker::new().spawn(async move { queue.serve(stop).await })
        };
        tokio::task::yield_now().await;
        add(&queue, &written, 1);
        add(&queue, &written, 2);
        tokio::task::yield_now().await;
        assert_eq!(*written.lock(), [0], "the others come first");
        tokio::time::sleep(DELAY * 2).await;
        assert_eq!(*written.lock(), [0, 1, 2]);

        // Beyond its room it is written at once, and the rest when it ends.
        for number in 0..=MOST_WAITING {
            add(&queue, &written, number);
        }
        assert_eq!(written.lock()[3..], [MOST_WAITING]);
        stop.cancel();
        serving.await.unwrap();
        assert_eq!(written.lock().len(), 3 + MOST_WAITING + 1);
        add(&queue, &written, 7);
        assert_eq!(written.lock().last(), Some(&7));
    }

    #[tokio::test]
    async fn lines_that_wait_are_written_when_the_server_does_not_wait_for_them() {
        let (queue, written) = queue();
        {
            let serving = queue.serve(CancellationToken::new());
            tokio::pin!(serving);
            assert!(futures::poll!(serving.as_mut()).is_pending());
            add(&queue, &written, 1);
            assert!(written.lock().is_empty());
        }
        assert_eq!(*written.lock(), [1]);
    }
}
