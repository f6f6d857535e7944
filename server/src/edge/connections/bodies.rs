//! Bodies of the calls of strangers. A message is measured before any of it is kept, and the answer
//! tells when its call is over.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use pin_project_lite::pin_project;
use tonic::Status;

use super::handle::{ConnectionHandle, OpenCall};
use crate::error::{message_too_long, not_ended, transport};

/// Largest message of a stranger: a Hello that lists many attempts.
pub(super) const STRANGER_MESSAGE: u32 = 256 * 1024;
/// Largest request to enrol. A real one has some 1,600 bytes.
pub(super) const ENROLMENT: u32 = 16 * 1024;
/// Compression flag and length, which stand before a message.
const HEAD: usize = 5;

/// The body of a request. The length of a message comes before it, and a message that is too long
/// is refused then: the decoder would set aside memory for all of it.
#[derive(Debug)]
pub(super) struct Inbound {
    body: Incoming,
    limit: Option<Box<LengthLimit>>,
}

impl Inbound {
    /// The body of a known caller's request. It has no limit here.
    pub(super) fn unlimited(body: Incoming) -> Self {
        Self { body, limit: None }
    }

    /// A body whose messages have at most `most` bytes: until the caller is known, or for ever.
    pub(super) fn measured(
        body: Incoming,
        most: u32,
        until_known: Option<ConnectionHandle>,
    ) -> Self {
        let limit = LengthLimit {
            most,
            until_known,
            head: [0; HEAD],
            have: 0,
            left: 0,
        };
        Self {
            body,
            limit: Some(Box::new(limit)),
        }
    }
}

impl Body for Inbound {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = match ready!(Pin::new(&mut self.body).poll_frame(context)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(transport(error)))),
            None if self.body.is_end_stream() => return Poll::Ready(None),
            // hyper also says so when a connection ends whose ping was not answered, and when the
            // peer resets the stream without an error. It says it again then. Any other answer
            // means that the peer had ended the stream before the connection broke.
            None => {
                return Poll::Ready(match Pin::new(&mut self.body).poll_frame(context) {
                    Poll::Ready(None) => Some(Err(not_ended())),
                    Poll::Ready(Some(_)) | Poll::Pending => None,
                });
            }
        };
        if let (Some(limit), Some(data)) = (&mut self.limit, frame.data_ref()) {
            if limit.is_over() {
                self.limit = None;
            } else if let Err(refusal) = limit.check(data) {
                return Poll::Ready(Some(Err(refusal)));
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Follows the framing of messages, and finds those that are too long.
#[derive(Debug)]
struct LengthLimit {
    most: u32,
    until_known: Option<ConnectionHandle>,
    head: [u8; HEAD],
    /// Bytes of the head that have come.
    have: usize,
    /// Bytes of the message that are still to come.
    left: usize,
}

impl LengthLimit {
    fn is_over(&self) -> bool {
        self.until_known
            .as_ref()
            .is_some_and(|caller| !caller.is_stranger())
    }

    /// Passes these bytes on, or says which message is too long.
    fn check(&mut self, mut data: &[u8]) -> Result<(), Status> {
        while !data.is_empty() {
            let skipped = self.left.min(data.len());
            self.left -= skipped;
            data.advance(skipped);
            let taken = (HEAD - self.have).min(data.len());
            self.head[self.have..self.have + taken].copy_from_slice(&data[..taken]);
            self.have += taken;
            data.advance(taken);
            if self.have < HEAD {
                break;
            }
            self.have = 0;
            let [_, a, b, c, d] = self.head;
            let length = u32::from_be_bytes([a, b, c, d]);
            if length > self.most {
                return Err(message_too_long(length, self.most));
            }
            self.left = length as usize;
        }
        Ok(())
    }
}

pin_project! {
    /// The body of an answer. It may count as a call until it is over.
    pub(super) struct CountedBody<B> {
        #[pin]
        body: B,
        call: Option<OpenCall>,
    }
}

impl<B> CountedBody<B> {
    pub(super) fn new(body: B, call: Option<OpenCall>) -> Self {
        Self { body, call }
    }
}

impl<B: Body> Body for CountedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.project().body.poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limit(most: u32) -> LengthLimit {
        LengthLimit {
            most,
            until_known: None,
            head: [0; HEAD],
            have: 0,
            left: 0,
        }
    }

    fn framed(lengths: &[u32]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for length in lengths {
            bytes.push(0);
            bytes.extend(length.to_be_bytes());
            bytes.extend(std::iter::repeat_n(0xff, *length as usize));
        }
        bytes
    }

    proptest! {
        /// However the bytes are cut into pieces, a message is refused exactly when its announced
        /// length is too large.
        #[test]
        fn a_message_is_refused_by_its_announced_length(
            lengths in prop::collection::vec(0u32..40, 1..8),
            piece in 1usize..50,
            most in 0u32..40,
        ) {
            let bytes = framed(&lengths);
            let mut limit = limit(most);
            let seen = bytes.chunks(piece).map(|piece| limit.check(piece)).find(Result::is_err);
            prop_assert_eq!(seen.is_some(), lengths.iter().any(|length| *length > most));
        }
    }

    #[test]
    fn nothing_of_a_long_message_is_needed_to_refuse_it() {
        let refused = limit(ENROLMENT)
            .check(&[0, 0, 0x20, 0, 0])
            .expect_err("2 MiB");
        assert_eq!(refused.code(), tonic::Code::OutOfRange);
        assert!(refused.message().contains("2097152") && refused.message().contains("16384"));
        assert!(limit(ENROLMENT).check(&[0, 0, 0, 0x40, 0]).is_ok());
    }
}
