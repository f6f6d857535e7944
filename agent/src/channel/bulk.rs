//! A connection for one download, open while that lasts.
//!
//! Messages on one connection arrive in order, so a stop behind megabytes of a bundle would be
//! late. Therefore a download has its own connection, and the agent decides how many bytes are on
//! their way on it. hyper fixes that window before the first byte, so this file uses h2 directly.

use std::{
    num::NonZeroU64,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::{RecvStream, client};
use http::{Request, Response, Uri};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame};
use kernex_proto::v1::agent_service_client::AgentServiceClient;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, Sleep, sleep_until},
};
use tower::Service;

use super::{
    MAX_MESSAGE,
    pace::{LEAST_WINDOW, MOST_WINDOW, Pace},
};

/// A download that brings no byte for this long is cut. Bytes count, not messages: a slow download
/// goes on.
const STALL: Duration = Duration::from_secs(30);
/// A chunk of a bundle in one frame instead of sixteen.
const FRAME: u32 = 256 * 1024;
/// With a rate limit, bytes come in smaller steps.
const SMALL_FRAME: u32 = 16 * 1024;

#[derive(Debug, thiserror::Error)]
pub(crate) enum BulkError {
    /// The connection failed, or the other side speaks something else.
    #[error("the connection of the download failed")]
    Connection(#[from] h2::Error),
    #[error("the request could not be sent")]
    Request(#[source] tonic::Status),
    #[error("nothing came for {STALL:?}")]
    Stalled,
}

/// Starts HTTP/2 on a connection to `origin`; gives a client, and the future that does the work of
/// the connection for as long as it is used. `limit` is the most bytes a second.
pub(super) async fn start<T>(
    io: T,
    origin: Uri,
    limit: Option<NonZeroU64>,
) -> Result<(AgentServiceClient<Calls>, impl Future<Output = BulkError>), BulkError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let (requests, connection) = client::Builder::new()
        .enable_push(false)
        // The window of the connection is what holds back; there is only one stream.
        .initial_window_size(MOST_WINDOW)
        .initial_connection_window_size(LEAST_WINDOW)
        .max_frame_size(if limit.is_some() { SMALL_FRAME } else { FRAME })
        .handshake(io)
        .await?;
    let window = Arc::new(AtomicU32::new(LEAST_WINDOW));
    let calls = Calls {
        requests,
        limit,
        window: Arc::clone(&window),
    };
    let client = AgentServiceClient::with_origin(calls, origin)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    Ok((client, drive(connection, window)))
}

/// Drives a connection until it ends. Each frame that arrives wakes this, which then applies the
/// newest window.
async fn drive<T>(mut connection: client::Connection<T, Bytes>, window: Arc<AtomicU32>) -> BulkError
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut granted = LEAST_WINDOW;
    let ended = std::future::poll_fn(|cx| {
        let wished = window.load(Ordering::Relaxed);
        if wished != granted {
            connection.set_target_window_size(wished);
            granted = wished;
        }
        Pin::new(&mut connection).poll(cx)
    });
    match ended.await {
        Err(error) => error.into(),
        Ok(()) => h2::Error::from(h2::Reason::NO_ERROR).into(),
    }
}

/// Calls over one such connection.
#[derive(Debug, Clone)]
pub(crate) struct Calls {
    requests: client::SendRequest<Bytes>,
    limit: Option<NonZeroU64>,
    window: Arc<AtomicU32>,
}

impl Service<Request<tonic::body::Body>> for Calls {
    type Response = Response<Paced>;
    type Error = BulkError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Paced>, BulkError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BulkError>> {
        self.requests.poll_ready(cx).map_err(BulkError::Connection)
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let mut calls = self.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            // A request is one small message.
            let body = body.collect().await.map_err(BulkError::Request)?;
            let head = Request::from_parts(head, ());
            let (answer, mut up) = calls.requests.send_request(head, false)?;
            up.send_data(body.to_bytes(), true)?;
            let answer = answer.await?;
            Ok(answer.map(|stream| Paced::new(stream, calls.limit, calls.window)))
        })
    }
}

/// The body of an answer: read no faster than allowed, and cut when no byte comes.
#[derive(Debug)]
pub(crate) struct Paced {
    stream: RecvStream,
    pace: Pace,
    window: Arc<AtomicU32>,
    /// Ends a pause, or the wait for the next byte.
    alarm: Pin<Box<Sleep>>,
    is_pausing: bool,
}

impl Paced {
    fn new(stream: RecvStream, limit: Option<NonZeroU64>, window: Arc<AtomicU32>) -> Self {
        let now = Instant::now();
        Self {
            stream,
            pace: Pace::new(limit, now),
            window,
            alarm: Box::pin(sleep_until(now + STALL)),
            is_pausing: false,
        }
    }

    /// Lets the server send as many bytes again, and pauses when there is a rate limit.
    fn note_read(&mut self, bytes: usize) -> Result<(), h2::Error> {
        let now = Instant::now();
        let next = self.pace.read(bytes, now);
        self.window.store(self.pace.window(), Ordering::Relaxed);
        self.is_pausing = next.is_some();
        self.alarm.as_mut().reset(next.unwrap_or(now + STALL));
        self.stream.flow_control().release_capacity(bytes)
    }
}

impl Body for Paced {
    type Data = Bytes;
    type Error = BulkError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BulkError>>> {
        if self.is_pausing {
            ready!(self.alarm.as_mut().poll(cx));
            self.is_pausing = false;
            self.alarm.as_mut().reset(Instant::now() + STALL);
        }
        match self.stream.poll_data(cx) {
            Poll::Ready(Some(Ok(data))) => {
                self.note_read(data.len())?;
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => match self.stream.poll_trailers(cx)? {
                Poll::Ready(trailers) => {
                    return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
                }
                Poll::Pending => {}
            },
            Poll::Pending => {}
        }
        ready!(self.alarm.as_mut().poll(cx));
        Poll::Ready(Some(Err(BulkError::Stalled)))
    }
}
