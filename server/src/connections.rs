//! HTTP/2 on each accepted connection, by hyper, with tonic's services behind it.
//!
//! tonic's own server would do the same but for time and room: see
//! `docs/decisions/0022-connections-are-served-by-hyper.md`.

mod deadline;
mod front;
mod ticks;

use std::{convert::Infallible, time::Duration};

use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::body::Body;
use tower::{Service, ServiceExt as _};

pub(crate) use self::front::Front;
use self::ticks::Ticks;
use crate::{error::chain, listener::Connection};

/// Serves what comes until `stop`, then lets the calls under way end; returns when the last connection is closed.
pub(crate) async fn serve<S>(
    mut connections: mpsc::Receiver<Connection>,
    service: S,
    stop: CancellationToken,
) where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
{
    let tasks = TaskTracker::new();
    let http = protocol(Executor(tasks.clone()));
    loop {
        let connection = tokio::select! {
            () = stop.cancelled() => break,
            next = connections.recv() => match next {
                Some(connection) => connection,
                None => break,
            },
        };
        let peer = connection.peer();
        let service = service.clone();
        let calls = service_fn(move |request: Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(peer);
            let limit = deadline::of(request.headers());
            // In a box: the stream of a session does not keep the room its call took.
            Box::pin(deadline::within(limit, service.clone().oneshot(request)))
        });
        let mut connection = http.serve_connection(TokioIo::new(connection), calls);
        let stop = stop.clone();
        // Only borrowed within: what is moved has its room twice.
        tasks.spawn(async move {
            let served = tokio::select! {
                biased;
                served = &mut connection => served,
                () = stop.cancelled() => {
                    std::pin::Pin::new(&mut connection).graceful_shutdown();
                    (&mut connection).await
                }
            };
            if let Err(error) = served {
                tracing::debug!(address = %peer.address, error = %chain(&error), "connection failed");
            }
        });
    }
    tasks.close();
    tasks.wait().await;
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
