//! HTTP/2 on each accepted connection, by hyper, with tonic's services behind it.
//!
//! tonic's own server is not used because it keeps its connections to itself. Strangers are on
//! probation here: a connection is closed by itself, its calls are counted, and what may be read of
//! it is limited until something on it has authenticated. For all that the server has to hold the
//! connection.
//!
//! What that gives, by the scenario `hostile` (SQLite, 1,000 agents, 25 attacks of 20 s each):
//! under attack the server takes at most 85 MiB more than in peace, and 99 of 100 pushes arrive
//! within 19.5 ms. What else it gave, pings in ticks and a smaller session, is in
//! `docs/performance.md`, appendix C.
//!
//! Decisions: `docs/decisions/0022-connections-are-served-by-hyper.md`,
//! `docs/decisions/0025-strangers-are-on-probation.md`.

mod bodies;
mod coalescing_timer;
mod connection;
mod crowd;
mod deadline;
mod guesses;
mod handle;
pub(crate) mod proxied;
mod refusals;
mod router;
mod source;
mod strangers;

use std::{convert::Infallible, error::Error, time::Duration};

use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::body::Body;
use tower::{Service, ServiceExt as _};

use self::{
    bodies::{CountedBody, ENROLMENT, Inbound, STRANGER_MESSAGE},
    coalescing_timer::CoalescingTimer,
};
pub(crate) use self::{
    connection::{Connection, Peer, Transport},
    crowd::StrangerLimits,
    guesses::Credential,
    handle::ConnectionHandle,
    router::Router,
    source::Source,
    strangers::Strangers,
};
use crate::error::chain;

/// These two calls have limits of their own.
const ENROLL: &str = "/kernex.v1.AgentService/Enroll";
const WATCH_HEALTH: &str = "/grpc.health.v1.Health/Watch";
/// Longest time of an enrolment. The reading of its request counts.
const ENROLL_LIMIT: Duration = Duration::from_secs(10);

/// A connection over which nothing has come for so long is pinged.
const PING_AFTER: Duration = Duration::from_secs(20);
/// A connection whose ping is not answered within this time is ended.
pub(crate) const PING_LIMIT: Duration = Duration::from_secs(10);

/// The open connections. A task serves each of them.
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
    /// `stop` ends each connection when its calls have ended.
    pub(crate) fn new(service: S, stop: CancellationToken) -> Self {
        let tasks = TaskTracker::new();
        Self {
            http: protocol(Executor(tasks.clone())),
            service,
            tasks,
            stop,
        }
    }

    pub(crate) fn serve(&self, connection: Connection) {
        let (peer, handle) = (connection.peer(), connection.handle().clone());
        let service = self.service.clone();
        let of = handle.clone();
        let calls = service_fn(move |request: Request<Incoming>| {
            let path = request.uri().path();
            let call = of.begin_call(path == WATCH_HEALTH);
            let limit = deadline::from_headers(request.headers());
            let (most, limit) = if path == ENROLL {
                let limit = deadline::at_most(limit, ENROLL_LIMIT);
                (Some((ENROLMENT, None)), Some(limit))
            } else {
                let until_known = of
                    .is_stranger()
                    .then(|| (STRANGER_MESSAGE, Some(of.clone())));
                (until_known, limit)
            };
            let mut request = request.map(|body| {
                Body::new(match most {
                    Some((most, until_known)) => Inbound::measured(body, most, until_known),
                    None => Inbound::unlimited(body),
                })
            });
            request.extensions_mut().insert(peer);
            request.extensions_mut().insert(of.clone());
            let (service, of) = (service.clone(), of.clone());
            // In a box, so that the stream of a session does not keep the memory of the call that
            // opened it.
            Box::pin(async move {
                let call = match call {
                    Ok(call) => call,
                    Err(status) => {
                        of.refused("busy", &status.message());
                        let refusal = status.into_http();
                        return Ok(refusal.map(|body: Body| CountedBody::new(body.into(), None)));
                    }
                };
                let answer = deadline::within(limit, service.oneshot(request)).await?;
                Ok::<_, Infallible>(answer.map(|body: B| CountedBody::new(body, call)))
            })
        });
        let stop = self.stop.clone();
        let mut connection = self.http.serve_connection(TokioIo::new(connection), calls);
        // Borrowed here: to move it into `select!` would store it twice in the future of this task.
        self.tasks.spawn(async move {
            let mut stopping = false;
            let ended = loop {
                tokio::select! {
                    biased;
                    // First, because this wakes the reader, too (see `ConnectionHandle::closed`).
                    why = handle.closed() => {
                        if handle.is_stranger() {
                            tracing::debug!(address = %handle.address(), why, "connection closed");
                        } else {
                            tracing::warn!(address = %handle.address(), why, "connection closed");
                        }
                        break Ok(());
                    }
                    served = &mut connection => break served.map_err(|error| chain(&error)),
                    () = stop.cancelled(), if !stopping => {
                        stopping = true;
                        std::pin::Pin::new(&mut connection).graceful_shutdown();
                    }
                }
            };
            if let Err(error) = ended {
                tracing::debug!(address = %handle.address(), error, "connection failed");
            }
        });
    }

    /// Waits until all connections are closed. They are some time after a stop.
    pub(crate) async fn closed(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Limits instead of hyper's defaults. Only the server pings, so that agents may sleep.
fn protocol(executor: Executor) -> http2::Builder<Executor> {
    let mut http = http2::Builder::new(executor);
    http.timer(CoalescingTimer::default())
        .keep_alive_interval(PING_AFTER)
        .keep_alive_timeout(PING_LIMIT)
        // An agent needs two streams and an operator a few. A service that multiplexes many calls
        // gets by with this.
        .max_concurrent_streams(256)
        .max_header_list_size(16 * 1024)
        // Against floods of streams that are opened and reset at once.
        .max_pending_accept_reset_streams(32)
        .max_local_error_reset_streams(64)
        // Room for uploads over long distances. Agents send little.
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(2 << 20);
    http
}

/// Runs streams as tasks that are awaited together with the connections.
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
