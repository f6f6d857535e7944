//! How answers leave: tasks of their own feed them, each caller has so many at a time, and bytes
//! are counted as peers take them.
//!
//! A peer decides how fast it reads, and with HTTP/2 it may not read at all. It must not decide
//! about anything else.
//!
//! * A stream's messages come from a task ([`fed`]).
//! * A caller has so many streams, uploads and plans at a time ([`slots`]).
//! * Bytes are counted as they leave ([`measured`]).
//! * A peer that takes none is told so, and then cut off ([`stalled`]).
//!
//! This layer does all of that around each call, by the shape that the descriptor gives it. A
//! handler returns what [`fed`] made. A stream that was made in another way is refused.

mod feeder;
mod measured;
mod methods;
mod slots;
mod stalled;

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::StreamExt as _;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyStream, StreamBody};
use hyper::body::{Body as _, Frame};
use kernex_proto::{SESSION_TOKEN_KEY, ids::Digest};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};
use tracing::Span;

pub use self::{feeder::Fed, slots::SlotLimits};
use self::{
    feeder::{End, Pump},
    measured::Answer,
    methods::{Methods, Shape},
    slots::{SlotKind, SlotOwner, StreamSlots},
};
pub(crate) use self::{
    feeder::{EndedBy, FEW, Feeder, MANY, channel, fed},
    measured::Measured,
    stalled::Stalled,
};
use crate::{
    edge::connections::ConnectionHandle,
    error::{defect, going_away},
    lifecycle::Tasks,
    metrics::Metrics,
    store::Principal,
};

/// Describes each method that is served.
const DESCRIPTORS: &[&[u8]] = &[
    kernex_proto::DESCRIPTORS,
    tonic_health::pb::FILE_DESCRIPTOR_SET,
    tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
    tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnswerLimits {
    pub most: SlotLimits,
    /// Time without a byte taken after which a reader counts as gone.
    pub stall: Duration,
}

impl Default for AnswerLimits {
    fn default() -> Self {
        Self {
            most: SlotLimits::default(),
            stall: Duration::from_secs(30),
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct AnswersLayer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    methods: Methods,
    slots: StreamSlots,
    stalled: Arc<Stalled>,
    tasks: Tasks,
    metrics: Arc<Metrics>,
    draining: CancellationToken,
}

impl AnswersLayer {
    /// Feeders run as `tasks`. Streams of libraries end with `draining`.
    pub(crate) fn new(
        limits: AnswerLimits,
        tasks: Tasks,
        metrics: Arc<Metrics>,
        draining: CancellationToken,
    ) -> Result<Self, prost::DecodeError> {
        Ok(Self(Arc::new(Shared {
            methods: Methods::from_descriptors(DESCRIPTORS)?,
            slots: StreamSlots::new(limits.most),
            stalled: Arc::new(Stalled::new(limits.stall, Arc::clone(&metrics))),
            tasks,
            metrics,
            draining,
        })))
    }

    /// The search for peers that do not read. It has to be run as a task.
    pub(crate) fn stalled(&self) -> Arc<Stalled> {
        Arc::clone(&self.0.stalled)
    }
}

impl<S> Layer<S> for AnswersLayer {
    type Service = Answers<S>;

    fn layer(&self, inner: S) -> Answers<S> {
        Answers {
            inner,
            shared: Arc::clone(&self.0),
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Answers<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S> Service<Request<Body>> for Answers<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let found = self.shared.methods.find(request.uri().path());
        let Some((method, shape)) = found else {
            return Box::pin(self.inner.call(request));
        };
        if shape == Shape::Session {
            return Box::pin(self.inner.call(request));
        }
        let connection = request.extensions().get::<ConnectionHandle>();
        let connection = connection.cloned().unwrap_or_default();
        let caller = slot_owner(&request, &connection);
        let place = match shape {
            Shape::Single | Shape::Session => None,
            Shape::Bounded(kind) | Shape::Stream(kind) => Some(kind),
            Shape::Foreign => Some(SlotKind::Stream),
        };
        let place = place.map(|kind| self.shared.slots.take(caller, kind));
        let place = match place.transpose() {
            Ok(place) => place,
            Err(status) => {
                self.shared.metrics.edge.token_limit.inc();
                return Box::pin(std::future::ready(Ok(status.into_http())));
            }
        };
        let call = HandledCall {
            method: Arc::clone(method),
            shape,
            by: request.extensions().get::<EndedBy>().cloned(),
            shared: Arc::clone(&self.shared),
        };
        let answer = Answer::new(Arc::clone(method), caller, connection, place);
        Box::pin(call.into_response(answer, self.inner.call(request)))
    }
}

/// The caller whose slot a call takes.
fn slot_owner(request: &Request<Body>, connection: &ConnectionHandle) -> SlotOwner {
    if let Some(principal) = request.extensions().get::<Principal>() {
        return SlotOwner::Token(principal.token_id);
    }
    match request.headers().get(SESSION_TOKEN_KEY) {
        Some(token) => SlotOwner::Session(Digest::of(token.as_bytes())),
        None => SlotOwner::Connection(connection.key()),
    }
}

/// A call that is being handled.
struct HandledCall {
    method: Arc<str>,
    shape: Shape,
    by: Option<EndedBy>,
    shared: Arc<Shared>,
}

impl HandledCall {
    async fn into_response(
        self,
        mut answer: Answer,
        handled: impl Future<Output = Result<Response<Body>, Infallible>>,
    ) -> Result<Response<Body>, Infallible> {
        let mut response = tokio::select! {
            biased;
            status = EndedBy::wait(self.by.as_ref()) => return Ok(status.into_http()),
            response = handled => response?,
        };
        let feeder = response.extensions_mut().remove::<Feeder>();
        let theirs = response.extensions_mut().remove::<EndedBy>();
        if response.body().is_end_stream() {
            // A refusal is short, so nothing of it waits for the peer.
            return Ok(response);
        }
        match self.shape {
            Shape::Stream(_) => {
                let Some((pump, end)) = feeder.and_then(|feeder| feeder.take()) else {
                    tracing::error!(method = %self.method, "a handler returned a stream that nothing feeds");
                    return Ok(defect("the stream is not fed").into_http());
                };
                end.listen_to([self.by, theirs]);
                answer.end = Some(end.clone());
                self.shared.feed(pump, end);
            }
            Shape::Foreign => {
                let body = std::mem::take(response.body_mut());
                let (fed, feeder) = channel(FEW, BodyStream::new(body));
                if let Some((pump, end)) = feeder.take() {
                    end.listen_to([self.by, Some(self.shared.stopping())]);
                    answer.end = Some(end.clone());
                    self.shared.feed(pump, end);
                }
                let frames = fed.map(|frame| {
                    Ok::<_, Status>(
                        frame.unwrap_or_else(|status| Frame::trailers(trailers(&status))),
                    )
                });
                *response.body_mut() = Body::new(StreamBody::new(frames));
            }
            Shape::Single | Shape::Bounded(_) | Shape::Session => {}
        }
        let answer = Arc::new(answer);
        self.shared.stalled.watch(&answer);
        response.extensions_mut().insert(answer);
        Ok(response)
    }
}

impl Shared {
    /// Starts the task that feeds a stream.
    fn feed(&self, pump: Pump, end: End) {
        self.tasks.spawn(Span::none(), async move {
            tokio::select! {
                biased;
                () = end.ended() => {}
                () = pump => {}
            }
        });
    }

    /// Ends a stream that would not end by itself when the server stops.
    fn stopping(&self) -> EndedBy {
        EndedBy {
            signal: self.draining.clone(),
            status: going_away(),
            lease: None,
        }
    }
}

/// The status of a call, as the end of its body.
pub(crate) fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        let internal = HeaderValue::from(Code::Internal as i32);
        trailers.insert(Status::GRPC_STATUS, internal);
    }
    trailers
}

#[cfg(test)]
mod tests;
