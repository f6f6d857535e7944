//! Counts how much of an answer its peer has taken, to the byte.
//!
//! The bytes that a body hands out are wrapped. HTTP/2 writes as many of them as the peer's windows
//! allow, and each byte that leaves is counted. So a download of a few bytes a second moves, also
//! between two messages, and one whose window is 0 does not.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tonic::{Status, body::Body};

use super::{
    feeder::End,
    slots::{SlotOwner, StreamSlot},
};
use crate::edge::connections::ConnectionHandle;

/// An answer on its way. It lives as long as its body does, or bytes of it that HTTP/2 still holds.
#[derive(Debug)]
pub(crate) struct Answer {
    /// For the log.
    pub(super) method: Arc<str>,
    /// For the log, and the owner of its slot.
    pub(super) caller: SlotOwner,
    /// Ends the stream, if the answer is one.
    pub(super) end: Option<End>,
    pub(super) connection: ConnectionHandle,
    /// The caller's slot. It is free again after the last byte.
    pub(super) _slot: Option<StreamSlot>,
    offered: AtomicU64,
    taken: AtomicU64,
}

impl Answer {
    pub(super) fn new(
        method: Arc<str>,
        caller: SlotOwner,
        connection: ConnectionHandle,
        slot: Option<StreamSlot>,
    ) -> Self {
        Self {
            method,
            caller,
            end: None,
            connection,
            _slot: slot,
            offered: AtomicU64::new(0),
            taken: AtomicU64::new(0),
        }
    }

    /// Bytes that have left.
    pub(super) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Whether bytes wait for the peer.
    pub(super) fn is_waiting(&self) -> bool {
        // What is offered grows before what is taken, so it is read second.
        let taken = self.taken();
        self.offered.load(Ordering::Relaxed) > taken
    }
}

#[derive(Debug)]
pub(crate) struct Measured {
    body: Body,
    /// `None` for answers that are not measured.
    answer: Option<Arc<Answer>>,
}

impl Measured {
    pub(super) fn new(body: Body, answer: Option<Arc<Answer>>) -> Self {
        Self { body, answer }
    }

    /// Replaces the body of a response. It is the outermost layer around the services.
    pub(crate) fn wrap(mut response: http::Response<Body>) -> http::Response<Self> {
        let answer = response.extensions_mut().remove::<Arc<Answer>>();
        response.map(|body| Self::new(body, answer))
    }
}

/// A body that no service made, such as a refusal, is not measured.
impl From<Body> for Measured {
    fn from(body: Body) -> Self {
        Self::new(body, None)
    }
}

impl HttpBody for Measured {
    type Data = CountedBytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<CountedBytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        let frame = frame.map(|frame| {
            Ok(frame?.map_data(|bytes| CountedBytes::new(bytes, self.answer.as_ref())))
        });
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Bytes that are counted as they leave.
#[derive(Debug)]
pub(crate) struct CountedBytes {
    bytes: Bytes,
    answer: Option<Arc<Answer>>,
}

impl CountedBytes {
    fn new(bytes: Bytes, answer: Option<&Arc<Answer>>) -> Self {
        if let Some(answer) = answer {
            let length = bytes.len() as u64;
            answer.offered.fetch_add(length, Ordering::Relaxed);
        }
        Self {
            bytes,
            answer: answer.cloned(),
        }
    }
}

impl Buf for CountedBytes {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        if let Some(answer) = &self.answer {
            answer.taken.fetch_add(count as u64, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    #[tokio::test]
    async fn each_byte_counts_when_it_leaves_and_not_when_it_is_handed_out() {
        let body = Body::new(
            http_body_util::Full::new(Bytes::from_static(b"0123456789"))
                .map_err(|never: std::convert::Infallible| match never {}),
        );
        let caller = SlotOwner::Connection(1);
        let answer = Answer::new("/x".into(), caller, ConnectionHandle::default(), None);
        let answer = Arc::new(answer);
        let mut body = Measured::new(body, Some(Arc::clone(&answer)));
        assert!(!answer.is_waiting());
        let frame = body.frame().await.expect("a frame").expect("data");
        let mut data = frame.into_data().expect("data");
        assert!(answer.is_waiting());
        drop(body);
        data.advance(3);
        assert_eq!(answer.taken(), 3);
        assert!(answer.is_waiting());
        assert_eq!(data.copy_to_bytes(7), "3456789");
        assert_eq!(answer.taken(), 10);
        assert!(!answer.is_waiting());
        assert_eq!(Arc::strong_count(&answer), 2, "the bytes hold it");
        drop(data);
        assert_eq!(Arc::strong_count(&answer), 1);
    }
}
