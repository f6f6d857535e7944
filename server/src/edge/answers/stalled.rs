//! Ends the answers of peers that do not read. A stream of which no byte was taken for a while is
//! ended. With a window of 0 the peer does not see that either, and then its connection is closed.
//!
//! One task checks all answers from time to time, so that a byte that is sent only has to be
//! counted.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::measured::Answer;
use crate::{error::slow_reader, metrics::Metrics};

/// Checks within one limit, so the limit is exact to a thirtieth.
const LOOKS: u32 = 30;
/// Shortest pause between two checks.
const CLOSEST: Duration = Duration::from_millis(10);

/// Checks the answers that are on their way.
#[derive(Debug)]
pub(crate) struct Stalled {
    limit: Duration,
    metrics: Arc<Metrics>,
    new: Mutex<Vec<Weak<Answer>>>,
}

impl Stalled {
    /// Ends a stream after `limit` without a byte, and closes its connection after as long again.
    pub(super) fn new(limit: Duration, metrics: Arc<Metrics>) -> Self {
        Self {
            limit,
            metrics,
            new: Mutex::default(),
        }
    }

    /// Adds an answer. It is checked until it is gone.
    pub(super) fn watch(&self, answer: &Arc<Answer>) {
        let mut new = self.new.lock();
        new.push(Arc::downgrade(answer));
    }

    /// Checks until `stop`.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let pause = Ord::max(self.limit / LOOKS, CLOSEST);
        let mut watched = Vec::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            self.check_all(&mut watched);
        }
    }

    fn check_all(&self, watched: &mut Vec<(Weak<Answer>, Seen)>) {
        let now = Instant::now();
        let new = std::mem::take(&mut *self.new.lock());
        watched.extend(new.into_iter().map(|answer| (answer, Seen::new(now))));
        watched.retain_mut(|(answer, seen)| {
            let Some(answer) = answer.upgrade() else {
                return false;
            };
            let state = AnswerState {
                waits: answer.is_waiting(),
                taken: answer.taken(),
                stream: answer.end.is_some(),
                ended: answer
                    .end
                    .as_ref()
                    .is_some_and(|end| end.status().is_some()),
            };
            match seen.decide(state, now, self.limit) {
                StallAction::Leave => true,
                StallAction::End => {
                    self.end(&answer);
                    true
                }
                StallAction::Close => {
                    self.close(&answer);
                    false
                }
            }
        });
        // A burst of calls does not keep its room.
        if watched.capacity() > 64 && watched.len() < watched.capacity() / 4 {
            watched.shrink_to(watched.len() * 2);
        }
    }

    fn end(&self, answer: &Answer) {
        let Some(end) = &answer.end else { return };
        let seconds = self.limit.as_secs_f32();
        tracing::info!(method = %answer.method, caller = %answer.caller, seconds, "a stream is ended: its reader took nothing");
        self.metrics.edge.slow_readers.with_label("ended").inc();
        end.end(slow_reader(
            format!("nothing of this stream was read for {seconds} s; read faster, and go on where it was cut"),
        ));
    }

    fn close(&self, answer: &Answer) {
        tracing::info!(method = %answer.method, caller = %answer.caller, "a connection is closed: an answer on it is not read");
        self.metrics
            .edge
            .slow_readers
            .with_label("disconnected")
            .inc();
        answer.connection.close("an answer on it was not read");
    }
}

/// An answer at a check.
#[derive(Debug, Clone, Copy)]
struct AnswerState {
    /// Whether bytes wait for the peer.
    waits: bool,
    /// Bytes that have left.
    taken: u64,
    /// Whether it is a stream, which can be ended by itself.
    stream: bool,
    ended: bool,
}

/// An answer at earlier checks.
#[derive(Debug, Clone, Copy)]
struct Seen {
    taken: u64,
    /// When a byte last left, or when none waited.
    moved: Instant,
    ended: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StallAction {
    Leave,
    End,
    Close,
}

impl Seen {
    const fn new(now: Instant) -> Self {
        Self {
            taken: 0,
            moved: now,
            ended: None,
        }
    }

    fn decide(&mut self, state: AnswerState, now: Instant, limit: Duration) -> StallAction {
        if !state.waits || state.taken != self.taken {
            self.taken = state.taken;
            self.moved = now;
        }
        if state.ended {
            self.ended.get_or_insert(now);
        }
        let still = now.duration_since(self.moved);
        match self.ended {
            // It does not matter who ended it. A peer that has not taken the end of a stream within
            // the limit does not read.
            Some(ended) if now.duration_since(ended) >= limit => StallAction::Close,
            Some(_) => StallAction::Leave,
            None if state.stream && still >= limit => {
                self.ended = Some(now);
                StallAction::End
            }
            // No stream, so it cannot be ended by itself: its last bytes are on their way.
            None if still >= limit * 2 => StallAction::Close,
            None => StallAction::Leave,
        }
    }
}

#[cfg(test)]
mod tests;
