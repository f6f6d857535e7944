//! The listener for machines that watch the server: `/metrics` for Prometheus, `/healthz` and
//! `/readyz` for orchestrators.
//!
//! Plain HTTP/1.1 on an address of its own, which is loopback unless configured. It has nothing to
//! hide and gives nothing away: no device, bundle or caller is named. A connection answers one
//! request and is closed.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::{encoding::prometheus_text, registry::Registry as Exposition};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;

pub(crate) use self::gauges::Gauges;
use crate::edge::accept::accept_each;

mod gauges;

/// Requests that are answered at once: two scrapers and some probes.
const CONNECTIONS: usize = 16;
/// From connection to answer.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// A database that has not answered by then counts as not answering.
const PROBE_LIMIT: Duration = Duration::from_secs(2);
/// Largest head of a request.
const HEAD_LIMIT: usize = 16 * 1024;

const TEXT: &str = "text/plain; charset=utf-8";

#[derive(Debug)]
pub(crate) struct Monitor {
    exposition: Exposition,
    gauges: Gauges,
    draining: CancellationToken,
}

impl Monitor {
    pub(crate) fn new(gauges: Gauges, draining: CancellationToken) -> Self {
        Self {
            exposition: gauges.metrics.registry(),
            gauges,
            draining,
        }
    }

    /// Answers on `listener` until `stop`.
    pub(crate) async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        let monitor = &Arc::new(self);
        let places = &Arc::new(Semaphore::new(CONNECTIONS));
        accept_each(
            listener,
            || {
                let places = Arc::clone(places);
                async move { places.acquire_owned().await.ok() }
            },
            |stream, address, place| {
                let monitor = Arc::clone(monitor);
                async move {
                    monitor.serve_one(stream, address).await;
                    drop(place);
                }
            },
            |_| {},
            stop,
        )
        .await;
    }

    async fn serve_one(self: Arc<Self>, stream: TcpStream, address: SocketAddr) {
        let service = service_fn(|request| {
            let monitor = Arc::clone(&self);
            async move { Ok::<_, Infallible>(monitor.answer(&request).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(REQUEST_LIMIT)
            .max_buf_size(HEAD_LIMIT)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service);
        match tokio::time::timeout(REQUEST_LIMIT, connection).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%address, %error, "a scrape failed"),
            Err(_) => tracing::debug!(%address, "a scrape took too long"),
        }
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET\n");
            let allowed = HeaderValue::from_static("GET, HEAD");
            refusal.headers_mut().insert(header::ALLOW, allowed);
            return refusal;
        }
        match request.uri().path() {
            "/metrics" => {
                self.gauges.read_gauges().await;
                let mut figures = String::with_capacity(64 * 1024);
                match prometheus_text::encode(&mut figures, &self.exposition) {
                    Ok(()) => text(StatusCode::OK, prometheus_text::CONTENT_TYPE, figures),
                    Err(error) => {
                        tracing::error!(%error, "the metrics cannot be written");
                        text(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "see the log\n")
                    }
                }
            }
            // The server is alive, because it answers.
            "/healthz" => text(StatusCode::OK, TEXT, "alive\n"),
            "/readyz" => match self.readiness().await {
                Ok(()) => text(StatusCode::OK, TEXT, "ready\n"),
                Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, TEXT, why),
            },
            _ => text(
                StatusCode::NOT_FOUND,
                TEXT,
                "there are /metrics, /healthz and /readyz\n",
            ),
        }
    }

    async fn readiness(&self) -> Result<(), &'static str> {
        if self.draining.is_cancelled() {
            return Err("the server is stopping\n");
        }
        // Over the connections of sessions: operators who wait do not make a server unfit for its
        // fleet.
        match tokio::time::timeout(PROBE_LIMIT, self.gauges.store.ping()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err("the database does not answer\n"),
        }
    }
}

fn text(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let content_type = HeaderValue::from_static(content_type);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    response
}
