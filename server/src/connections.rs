//! HTTP/2 on each accepted connection, by hyper, with tonic's services behind it.
//!
//! tonic's own server would do the same but for time and room: see
//! `docs/decisions/0022-connections-are-served-by-hyper.md`.

mod deadline;
mod front;
mod handle;
mod ticks;

use std::{convert::Infallible, error::Error, time::Duration};

use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::body::Body;
use tower::{Service, ServiceExt as _};

use self::ticks::Ticks;
pub(crate) use self::{front::Front, handle::ConnectionHandle};
use crate::{error::chain, listener::Connection};

/// Every connection there is, each a task.
#[derive(Debug, Clone)]
pub(crate) struct Connections<S> {
    http: http2::Builder<Executor>,
    service: S,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl<S, B> Connections<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
    B: hyper::body::Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>>
        + From<Body>
        + Send
        + 'static,
{
    /// None yet. Each of them will be served until `stop`, when calls under way may end.
    pub(crate) fn new(service: S, stop: CancellationToken) -> Self {
        let tasks = TaskTracker::new();
        Self {
            http: protocol(Executor(tasks.clone())),
            service,
            tasks,
            stop,
        }
    }

    /// Serves one more.
    pub(crate) fn serve(&self, connection: Connection) {
        let peer = connection.peer();
        let handle = ConnectionHandle::default();
        let service = self.service.clone();
        let of = handle.clone();
        let calls = service_fn(move |request: Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(peer);
            request.extensions_mut().insert(of.clone());
            let limit = deadline::of(request.headers());
            // In a box: the stream of a session does not keep the room its call took.
            Box::pin(deadline::within(limit, service.clone().oneshot(request)))
        });
        let stop = self.stop.clone();
        let mut connection = self.http.serve_connection(TokioIo::new(connection), calls);
        // Only borrowed within: what is moved has its room twice.
        self.tasks.spawn(async move {
            let mut stopping = false;
            let ended = loop {
                tokio::select! {
                    biased;
                    served = &mut connection => break served.map_err(|error| chain(&error)),
                    why = handle.closed() => {
                        tracing::warn!(address = %peer.address, why, "connection closed");
                        break Ok(());
                    }
                    () = stop.cancelled(), if !stopping => {
                        stopping = true;
                        std::pin::Pin::new(&mut connection).graceful_shutdown();
                    }
                }
            };
            if let Err(error) = ended {
                tracing::debug!(address = %peer.address, error, "connection failed");
            }
        });
    }

    /// Waits until the last one is closed, after a stop.
    pub(crate) async fn closed(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Limits instead of hyper's defaults. Only the server pings, so that agents may sleep.
fn protocol(executor: Executor) -> http2::Builder<Executor> {
    let mut http = http2::Builder::new(executor);
    http.timer(Ticks::default())
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10))
        // An agent needs two streams, an operator a few; a service that multiplexes many calls gets by with this.
        .max_concurrent_streams(256)
        .max_header_list_size(16 * 1024)
        // Guards against floods of streams that are opened and reset at once.
        .max_pending_accept_reset_streams(32)
        .max_local_error_reset_streams(64)
        // Room for uploads over long distances; agents send little.
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(2 << 20);
    http
}

/// Streams are tasks that are awaited together with their connections.
#[derive(Debug, Clone)]
struct Executor(TaskTracker);

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        self.0.spawn(stream);
    }
}
