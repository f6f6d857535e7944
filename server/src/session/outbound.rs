//! The sending half of a stream: a bounded queue, and an end that may overtake it.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use kernex_proto::v1::DeviceSessionResponse;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::Stream;
use tonic::Status;

use crate::delivery::registry::OUTBOUND_QUEUE;

/// What a session sends, and how it ends. An abrupt end overtakes the messages that wait.
#[derive(Debug)]
pub struct Outbound {
    queue: mpsc::Receiver<Box<DeviceSessionResponse>>,
    /// `None` once the session has ended in good order.
    verdict: Option<oneshot::Receiver<Status>>,
    over: bool,
}

impl Stream for Outbound {
    type Item = Result<DeviceSessionResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.over {
            return Poll::Ready(None);
        }
        if let Some(verdict) = &mut self.verdict {
            match Pin::new(verdict).poll(cx) {
                Poll::Ready(Ok(status)) => {
                    self.over = true;
                    return Poll::Ready(Some(Err(status)));
                }
                Poll::Ready(Err(_)) => {
                    // An end in good order: the messages in the queue still go out, and no more
                    // come.
                    self.verdict = None;
                    self.queue.close();
                }
                Poll::Pending => {}
            }
        }
        match self.queue.poll_recv(cx) {
            // The verdict is about to come, and wakes this task.
            Poll::Ready(None) if self.verdict.is_some() => Poll::Pending,
            other => other.map(|message| message.map(|message| Ok(*message))),
        }
    }
}

/// The two ends of a new stream: the response carries the first, and [`Sessions`](super::Sessions)
/// writes to the second.
#[must_use]
pub fn outbound() -> (Outbound, OutboundSender) {
    let (sender, queue) = mpsc::channel(OUTBOUND_QUEUE);
    let (end, verdict) = oneshot::channel();
    let outbound = Outbound {
        queue,
        verdict: Some(verdict),
        over: false,
    };
    (outbound, OutboundSender { sender, end })
}

#[derive(Debug)]
pub struct OutboundSender {
    pub(super) sender: mpsc::Sender<Box<DeviceSessionResponse>>,
    pub(super) end: oneshot::Sender<Status>,
}

impl OutboundSender {
    /// Ends the stream, with a status or in good order, and waits until its peer has taken that.
    /// False when it has not within `limit`.
    pub(super) async fn finish(self, verdict: Option<Status>, limit: Duration) -> bool {
        // A peer that has left does not need it.
        match verdict {
            Some(status) => drop(self.end.send(status)),
            None => drop(self.end),
        }
        tokio::time::timeout(limit, self.sender.closed())
            .await
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_stream::StreamExt as _;

    fn message() -> Box<DeviceSessionResponse> {
        Box::default()
    }

    #[tokio::test]
    async fn a_good_end_lets_the_queue_out_first() {
        let (mut outbound, line) = outbound();
        line.sender.try_send(message()).expect("room");
        drop(line);
        assert!(matches!(outbound.next().await, Some(Ok(_))));
        assert!(outbound.next().await.is_none());
    }

    #[tokio::test]
    async fn a_status_overtakes_the_queue() {
        let (mut outbound, line) = outbound();
        line.sender.try_send(message()).expect("room");
        line.end.send(Status::aborted("x")).expect("open");
        assert!(matches!(outbound.next().await, Some(Err(_))));
        assert!(outbound.next().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_take_the_end_is_told_from_who_does() {
        let limit = Duration::from_secs(30);
        for verdict in [None, Some(Status::aborted("x"))] {
            let (outbound, line) = outbound();
            let (taken, ()) = tokio::join!(line.finish(verdict.clone(), limit), async {
                let _all: Vec<_> = outbound.collect().await;
            });
            assert!(taken);
            let (outbound, line) = self::outbound();
            assert!(!line.finish(verdict, limit).await);
            drop(outbound);
        }
    }

    #[tokio::test]
    async fn a_status_that_comes_after_the_senders_left_is_still_said() {
        let (mut outbound, OutboundSender { sender, end }) = outbound();
        drop(sender);
        let (next, ()) = tokio::join!(outbound.next(), async {
            tokio::task::yield_now().await;
            end.send(Status::aborted("x")).expect("open");
        });
        assert!(matches!(next, Some(Err(_))));
    }
}
