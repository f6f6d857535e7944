//! Feeds each stream of answers by a task of its own, through a small channel.
//!
//! The body of a response is polled when its peer has room for more, and not before. What waits
//! inside of it waits for the peer. So the body is not the handler's stream: it only takes messages
//! from a channel, and a task fills that. The task asks for room first and for the next message
//! then. So what waits for the peer is a stream between two messages, which need not hold anything
//! that others need.

use std::{
    pin::{Pin, pin},
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
};

use futures::{Stream, StreamExt as _};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Response, Status};

use crate::edge::auth::Lease;

/// Messages ahead of the peer for a stream whose messages are large or rare.
pub(crate) const FEW: usize = 1;
/// Messages ahead of the peer for a stream of many small ones. A switch of tasks for each would
/// cost more than the message.
pub(crate) const MANY: usize = 64;

/// The only stream that handlers can return: what a [`Feeder`] puts into its channel, and then how
/// it ended.
#[derive(Debug)]
pub struct Fed<T> {
    items: mpsc::Receiver<Result<T, Status>>,
    end: End,
    over: bool,
}

/// A stream that does not run yet. It travels in the extensions of its response. The layer around
/// all calls starts a task for it, and refuses a stream of ours that has none.
#[derive(Clone)]
pub(crate) struct Feeder(Arc<Unstarted>);

struct Unstarted {
    pump: Mutex<Option<Pump>>,
    end: End,
}

/// Moves messages into a channel until there are no more, or until nobody takes them.
pub(crate) type Pump = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A response with the messages of `source`, at most `ahead` of them before the peer takes one. An
/// error ends it.
pub(crate) fn fed<T, S>(ahead: usize, source: S) -> Response<Fed<T>>
where
    T: Send + 'static,
    S: Stream<Item = Result<T, Status>> + Send + 'static,
{
    let (fed, feeder) = channel(ahead, source);
    let mut response = Response::new(fed);
    response.extensions_mut().insert(feeder);
    response
}

/// The two halves of [`fed`], for those who make a response by hand. Without its [`Feeder`] in the
/// extensions the response is not sent.
pub(crate) fn channel<T, S>(ahead: usize, source: S) -> (Fed<T>, Feeder)
where
    T: Send + 'static,
    S: Stream<Item = Result<T, Status>> + Send + 'static,
{
    let (sender, items) = mpsc::channel(ahead);
    let end = End::default();
    let feeder = Feeder(Arc::new(Unstarted {
        pump: Mutex::new(Some(Box::pin(pump(source, sender)))),
        end: end.clone(),
    }));
    let fed = Fed {
        items,
        end,
        over: false,
    };
    (fed, feeder)
}

impl Feeder {
    /// Takes what has to run, and what ends it. `None` the second time.
    pub(crate) fn take(&self) -> Option<(Pump, End)> {
        let mut pump = self.0.pump.lock();
        Some((pump.take()?, self.0.end.clone()))
    }
}

async fn pump<T>(
    source: impl Stream<Item = Result<T, Status>>,
    items: mpsc::Sender<Result<T, Status>>,
) {
    let mut source = pin!(source);
    // Room first: the next message is not begun before the last one is on its way.
    while let Ok(room) = items.reserve().await {
        let item = tokio::select! {
            biased;
            () = items.closed() => return,
            item = source.next() => item,
        };
        let Some(item) = item else { return };
        let last = item.is_err();
        room.send(item);
        if last {
            return;
        }
    }
}

impl<T> Stream for Fed<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.over {
            return Poll::Ready(None);
        }
        // An end from outside overtakes the messages that wait.
        if let Some(status) = self.end.status() {
            self.over = true;
            return Poll::Ready(Some(Err(status)));
        }
        let item = ready!(self.items.poll_recv(context));
        self.over = !matches!(item, Some(Ok(_)));
        // The task has ended with its stream, or because both were ended.
        Poll::Ready(item.or_else(|| self.end.status().map(Err)))
    }
}

/// Ends a stream from outside. Clones end the same stream.
#[derive(Debug, Clone, Default)]
pub(crate) struct End(Arc<State>);

#[derive(Debug, Default)]
struct State {
    status: OnceLock<Status>,
    ended: CancellationToken,
    by: OnceLock<[Option<EndedBy>; 2]>,
}

impl End {
    /// Ends the stream. Its task stops at once, and the peer is told why when it has room for that.
    /// The first status counts.
    pub(crate) fn end(&self, status: Status) {
        let _ = self.0.status.set(status);
        self.0.ended.cancel();
    }

    /// Waits until the stream is ended, by anybody.
    pub(super) async fn ended(&self) {
        let [first, second] = self
            .0
            .by
            .get()
            .map_or([None, None], |by| [by[0].as_ref(), by[1].as_ref()]);
        tokio::select! {
            biased;
            () = self.0.ended.cancelled() => {}
            status = EndedBy::wait(first) => self.end(status),
            status = EndedBy::wait(second) => self.end(status),
        }
    }

    /// Names others who end the stream. Only the first call counts.
    pub(super) fn listen_to(&self, by: [Option<EndedBy>; 2]) {
        let _ = self.0.by.set(by);
    }

    /// How the stream was ended; `None` until then.
    pub(super) fn status(&self) -> Option<Status> {
        if let Some(status) = self.0.status.get() {
            return Some(status.clone());
        }
        // Its task may be done, and then nobody else listens.
        let by = self.0.by.get()?.iter().flatten();
        let mut ended = by.filter(|by| by.signal.is_cancelled());
        ended.next().map(|by| by.status.clone())
    }
}

/// Ends a call from outside, with a status, by a signal or by the end of a [`Lease`]. Put it into
/// the extensions of a request before it is handled, or into those of the response to a stream. A
/// call that is not answered yet is dropped and answered with the status. A stream is ended with
/// it, ahead of the messages that wait, and its task stops at once. A peer that takes nothing does
/// not hear of it: its connection is closed 30 s later.
#[derive(Debug, Clone)]
pub(crate) struct EndedBy {
    /// Cancelled when the call has to end.
    pub(crate) signal: CancellationToken,
    /// What the caller is told.
    pub(crate) status: Status,
    /// Ends the call as well when it is over, with a status of its own.
    pub(crate) lease: Option<Lease>,
}

impl EndedBy {
    /// Waits for the signal; for ever when there is none.
    pub(super) async fn wait(by: Option<&Self>) -> Status {
        match by {
            Some(by) => tokio::select! {
                biased;
                () = by.signal.cancelled() => by.status.clone(),
                status = Lease::end_of(by.lease.as_ref()) => status,
            },
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::stream;

    use super::*;

    /// A stream that counts how many of its messages were begun.
    fn counted(begun: &Arc<AtomicUsize>) -> impl Stream<Item = Result<usize, Status>> + use<> {
        let begun = Arc::clone(begun);
        stream::iter(0..).map(move |number| {
            begun.fetch_add(1, Ordering::Relaxed);
            Ok(number)
        })
    }

    async fn run_other_tasks() {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    fn run(feeder: &Feeder) -> (tokio::task::JoinSet<()>, End) {
        let (pump, end) = feeder.take().expect("the first time");
        assert!(feeder.take().is_none(), "only once");
        let mut tasks = tokio::task::JoinSet::new();
        let ending = end.clone();
        tasks.spawn(async move {
            tokio::select! {
                biased;
                () = ending.ended() => {}
                () = pump => {}
            }
        });
        (tasks, end)
    }

    #[tokio::test]
    async fn no_message_is_begun_before_there_is_room_for_it() {
        let begun = Arc::new(AtomicUsize::new(0));
        let (mut fed, feeder) = channel(2, counted(&begun));
        run_other_tasks().await;
        assert_eq!(begun.load(Ordering::Relaxed), 0, "it is not running");
        let (_tasks, _end) = run(&feeder);
        run_other_tasks().await;
        assert_eq!(begun.load(Ordering::Relaxed), 2);
        assert!(matches!(fed.next().await, Some(Ok(0))));
        run_other_tasks().await;
        assert_eq!(begun.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn it_ends_as_its_source_does() {
        let (fed, feeder) = channel(FEW, stream::iter([Ok(1), Err(Status::aborted("x")), Ok(2)]));
        let (_tasks, _end) = run(&feeder);
        let all: Vec<_> = fed.collect().await;
        assert!(matches!(&all[..], [Ok(1), Err(status)] if status.message() == "x"));

        let (fed, feeder) = channel(FEW, stream::iter([Ok(1), Ok(2)]));
        let (_tasks, _end) = run(&feeder);
        assert_eq!(fed.count().await, 2);
    }

    #[tokio::test]
    async fn an_end_from_outside_overtakes_what_waits_and_stops_the_source() {
        let begun = Arc::new(AtomicUsize::new(0));
        let (mut fed, feeder) = channel(FEW, counted(&begun));
        let (mut tasks, end) = run(&feeder);
        run_other_tasks().await;
        end.end(Status::resource_exhausted("slow"));
        end.end(Status::aborted("later"));
        tasks.join_next().await.expect("a task").expect("it ends");
        let status = fed.next().await.expect("an item").expect_err("a status");
        assert_eq!(status.message(), "slow");
        assert!(fed.next().await.is_none());
        assert_eq!(begun.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_signal_ends_it_also_when_everything_was_said_and_not_yet_taken() {
        for running in [true, false] {
            let source = stream::iter([Ok(1)]).chain(stream::pending().take_until(async move {
                if running {
                    std::future::pending::<()>().await;
                }
            }));
            let (mut fed, feeder) = channel(FEW, source);
            let signal = CancellationToken::new();
            let by = EndedBy {
                signal: signal.clone(),
                status: Status::unauthenticated("revoked"),
                lease: None,
            };
            let (pump, end) = feeder.take().expect("the first time");
            end.listen_to([None, Some(by)]);
            let mut tasks = tokio::task::JoinSet::new();
            tasks.spawn(async move {
                tokio::select! {
                    biased;
                    () = end.ended() => {}
                    () = pump => {}
                }
            });
            run_other_tasks().await;
            signal.cancel();
            tasks.join_next().await.expect("a task").expect("it ends");
            let status = fed.next().await.expect("an item").expect_err("a status");
            assert_eq!(status.message(), "revoked");
        }
    }

    #[tokio::test]
    async fn who_leaves_takes_the_source_along() {
        let held = Arc::new(());
        let within = Arc::clone(&held);
        let source = stream::pending::<Result<(), Status>>().inspect(move |_| drop(within.clone()));
        let (fed, feeder) = channel(FEW, source);
        let (mut tasks, _end) = run(&feeder);
        run_other_tasks().await;
        assert_eq!(Arc::strong_count(&held), 2);
        drop(fed);
        tasks.join_next().await.expect("a task").expect("it ends");
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
