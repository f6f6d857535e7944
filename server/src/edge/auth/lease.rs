//! How long a call may go on: until its operator's token expires or is revoked.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderMap, HeaderValue};
use hyper::body::{Frame, SizeHint};
use tonic::{Status, body::Body};

use crate::{
    clock::Timestamp, edge::answers::EndedBy, error::token_ended, revocations::Hold, store::Store,
};

/// Longest time between two readings of the clock, which somebody may set.
const CHECK_EVERY: Duration = Duration::from_secs(30);

const REVOKED: &str = "the token was revoked";

/// The right of a call to go on. It is in the extensions of the request, for handlers that go on
/// after their answer began.
#[derive(Debug, Clone)]
pub struct Lease(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    hold: Hold,
    expires_at: Timestamp,
    store: Store,
}

impl Lease {
    pub(in crate::edge) fn new(hold: Hold, expires_at: Timestamp, store: Store) -> Self {
        Self(Arc::new(Inner {
            hold,
            expires_at,
            store,
        }))
    }

    /// Ends the call at once when the token is revoked or has expired, whether its peer reads or
    /// not.
    pub(in crate::edge) fn ended_by(&self) -> EndedBy {
        EndedBy {
            signal: self.0.hold.signal(),
            status: token_ended(REVOKED),
            lease: Some(self.clone()),
        }
    }

    /// Waits for the end of a lease; for ever when there is none.
    pub(in crate::edge) async fn end_of(lease: Option<&Self>) -> Status {
        match lease {
            Some(lease) => lease.clone().ended().await,
            None => std::future::pending().await,
        }
    }

    /// Waits until the call may not go on any more, and says how it ends.
    pub async fn ended(self) -> Status {
        loop {
            if self.0.hold.is_revoked() {
                return token_ended(REVOKED);
            }
            let now = self.0.store.steady_now();
            let left = self.0.expires_at.since(now);
            if left.is_zero() {
                return token_ended("the token has expired");
            }
            tokio::select! {
                () = self.0.hold.revoked() => {}
                () = tokio::time::sleep(left.min(CHECK_EVERY)) => {}
            }
        }
    }
}

/// The future of [`Lease::ended`].
pub(super) type LeaseEnd = Pin<Box<dyn Future<Output = Status> + Send>>;

/// An answer that ends with its lease.
pub(super) struct Leased {
    body: Body,
    /// `None` once the lease is over.
    over: Option<LeaseEnd>,
}

impl Leased {
    pub(super) const fn new(body: Body, over: LeaseEnd) -> Self {
        Self {
            body,
            over: Some(over),
        }
    }
}

impl hyper::body::Body for Leased {
    type Data = <Body as hyper::body::Body>::Data;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        let Some(over) = &mut self.over else {
            return Poll::Ready(None);
        };
        if let Poll::Ready(status) = over.as_mut().poll(cx) {
            self.over = None;
            // What feeds it is dropped now, and not when the peer has read the end.
            self.body = Body::empty();
            return Poll::Ready(Some(Ok(Frame::trailers(trailers(&status)))));
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.over.is_none() || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        let code = HeaderValue::from(status.code() as i32);
        trailers.insert(Status::GRPC_STATUS, code);
    }
    trailers
}
