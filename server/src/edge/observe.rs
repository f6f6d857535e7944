//! Logs and traces: one span per RPC, with the caller's trace as its parent and the field names of
//! the RPC conventions.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http::{HeaderMap, Request, Response};
use kernex_proto::telemetry::{self, LogFormat, TelemetryError, TelemetryGuard};
use tonic::{Code, body::Body};
use tower::{Layer, Service};
use tracing::{Instrument as _, Span, field};

use crate::edge::{auth::known_path, connections::ConnectionHandle};

/// Shown without `RUST_LOG`.
const DEFAULT_FILTER: &str = "info,sqlx=warn,sea_orm_migration=warn,h2=warn,hyper=warn,tower=warn";

/// Starts logs and, with an OTLP endpoint in the environment, traces. The guard writes out what
/// waits when it is shut down.
pub fn init(format: LogFormat) -> Result<TelemetryGuard, TelemetryError> {
    telemetry::init("kernex-server", DEFAULT_FILTER, format)
}

/// Puts a span around every RPC.
#[derive(Debug, Clone, Copy, Default)]
pub struct TraceLayer;

impl<S> Layer<S> for TraceLayer {
    type Service = TraceService<S>;

    fn layer(&self, inner: S) -> TraceService<S> {
        TraceService { inner }
    }
}

#[derive(Debug, Clone)]
pub struct TraceService<S> {
    inner: S,
}

impl<S> Service<Request<Body>> for TraceService<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let span = rpc_span(&request);
        let connection = request.extensions().get::<ConnectionHandle>().cloned();
        let started = std::time::Instant::now();
        let response = span.in_scope(|| self.inner.call(request));
        let within = span.clone();
        Box::pin(
            async move {
                let response = response.await?;
                let code = code(response.headers());
                span.record("rpc.grpc.status_code", code);
                let duration_ms = started.elapsed().as_millis() as u64;
                if code == 0 {
                    tracing::debug!(duration_ms, "rpc answered");
                } else {
                    refused(code, duration_ms, connection.as_ref());
                }
                Ok(response)
            }
            .instrument(within),
        )
    }
}

/// A refusal is the caller's business; what is the server's own was logged where it happened. A
/// stranger's is counted, and named once a source and minute.
fn refused(code: i64, duration_ms: u64, connection: Option<&ConnectionHandle>) {
    match connection.filter(|connection| connection.is_stranger()) {
        Some(stranger) => {
            let code = Code::from_i32(i32::try_from(code).unwrap_or_default());
            tracing::debug!(?code, duration_ms, "rpc refused");
            stranger.refused(reason(code), &code);
        }
        None => tracing::info!(code, duration_ms, "rpc refused"),
    }
}

/// How the refusal of a stranger's call is counted.
const fn reason(code: Code) -> &'static str {
    match code {
        Code::Unauthenticated => "unauthenticated",
        Code::Unimplemented => "unknown_method",
        Code::ResourceExhausted => "busy",
        Code::DeadlineExceeded => "too_slow",
        Code::OutOfRange => "too_long",
        Code::InvalidArgument => "malformed",
        _ => "other",
    }
}

fn rpc_span(request: &Request<Body>) -> Span {
    let path = known_path(request.uri().path());
    let (service, method) = path.split_once('/').unwrap_or((path, ""));
    let span = tracing::info_span!(
        "rpc",
        otel.name = path,
        otel.kind = "server",
        rpc.system = "grpc",
        rpc.service = service,
        rpc.method = method,
        rpc.grpc.status_code = field::Empty,
        client.address = field::Empty,
    );
    if let Some(connection) = request.extensions().get::<ConnectionHandle>() {
        span.record("client.address", field::display(connection.ip()));
    }
    let parent = request.headers().get("traceparent");
    if let Some(parent) = parent.and_then(|value| value.to_str().ok()) {
        telemetry::set_parent(&span, parent);
    }
    span
}

/// The status of a call that failed before its first message; later ones travel in the trailers.
fn code(headers: &HeaderMap) -> i64 {
    headers
        .get("grpc-status")
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}
