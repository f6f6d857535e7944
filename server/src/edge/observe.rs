//! Logs, traces and counts RPCs. One span for each, with the caller's trace as its parent and the
//! field names of OpenTelemetry's conventions for RPC.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use kernex_proto::{
    error::{DOMAIN, Reason},
    telemetry::{self, LogFormat, TelemetryError, TelemetryGuard, code_name},
};
use tonic::{Code, Status, body::Body};
use tonic_types::StatusExt as _;
use tower::{Layer, Service};
use tracing::{Instrument as _, Span, field};

use crate::{
    edge::{
        auth::{known_path, known_paths},
        connections::ConnectionHandle,
    },
    metrics::Metrics,
};

/// Most bytes of the reason of a refusal that a log line has.
const REASON_BYTES: usize = 512;

/// What is logged without `RUST_LOG`.
const DEFAULT_FILTER: &str = "info,sqlx=warn,sea_orm_migration=warn,h2=warn,hyper=warn,tower=warn";

/// Starts logs, and traces when the environment names an OTLP endpoint. The guard writes what waits
/// when it is shut down.
pub fn init(format: LogFormat) -> Result<TelemetryGuard, TelemetryError> {
    telemetry::init("kernex-server", DEFAULT_FILTER, format)
}

#[derive(Debug, Clone)]
pub struct TraceLayer(Arc<Metrics>);

impl TraceLayer {
    /// Every method has its series in `metrics` from now on.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        for method in known_paths() {
            metrics.rpc.prepare(method);
        }
        Self(metrics)
    }
}

impl<S> Layer<S> for TraceLayer {
    type Service = TraceService<S>;

    fn layer(&self, inner: S) -> TraceService<S> {
        TraceService {
            inner,
            metrics: Arc::clone(&self.0),
        }
    }
}

#[derive(Debug, Clone)]
pub struct TraceService<S> {
    inner: S,
    metrics: Arc<Metrics>,
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
        let method = known_path(request.uri().path());
        let span = rpc_span(&request, method);
        let metrics = Arc::clone(&self.metrics);
        let connection = request.extensions().get::<ConnectionHandle>().cloned();
        let started = std::time::Instant::now();
        let response = span.in_scope(|| self.inner.call(request));
        let within = span.clone();
        Box::pin(
            async move {
                let response = response.await?;
                // The status of a call that failed before its first message. Otherwise it comes
                // with the trailers.
                let status = Status::from_header_map(response.headers());
                let code = status.as_ref().map_or(Code::Ok, Status::code);
                let took = started.elapsed();
                metrics.rpc.answered(method, code_name(code), took);
                span.record("rpc.response.status_code", code_name(code));
                match status.filter(|_| code != Code::Ok) {
                    None => tracing::debug!(duration_ms = millis(took), "rpc answered"),
                    Some(status) => {
                        if is_our_fault(code) {
                            span.record("otel.status_code", "ERROR");
                            span.record("error.type", code_name(code));
                        }
                        refused(&status, took, connection.as_ref());
                    }
                }
                Ok(response)
            }
            .instrument(within),
        )
    }
}

fn millis(took: Duration) -> u64 {
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
}

/// Whether this status is a failure of the server. The others are the caller's business.
const fn is_our_fault(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

/// Logs a refusal, which is the caller's business. Failures of the server were logged where they
/// happened. Those of strangers are counted, and logged once a minute for each source.
fn refused(status: &Status, took: Duration, connection: Option<&ConnectionHandle>) {
    let (code, duration_ms) = (status.code(), millis(took));
    let mut why = status.message();
    why = &why[..why.floor_char_boundary(REASON_BYTES)];
    match connection.filter(|connection| connection.is_stranger()) {
        Some(stranger) => {
            tracing::debug!(why, duration_ms, "rpc refused");
            stranger.refused(reason(code), &code);
        }
        None => {
            let info = status.get_details_error_info();
            let reason = info
                .filter(|info| info.domain == DOMAIN)
                .and_then(|info| Reason::parse(&info.reason))
                .map(Reason::as_str);
            tracing::info!(reason, why, duration_ms, "rpc refused");
        }
    }
}

/// The label that the refusal of a stranger's call is counted by.
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

fn rpc_span(request: &Request<Body>, method: &'static str) -> Span {
    let span = tracing::info_span!(
        "rpc",
        otel.name = method,
        otel.kind = "server",
        otel.status_code = field::Empty,
        rpc.system.name = "grpc",
        rpc.method = method,
        rpc.response.status_code = field::Empty,
        "error.type" = field::Empty,
        client.address = field::Empty,
        caller = field::Empty,
        trace_id = field::Empty,
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
