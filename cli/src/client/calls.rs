//! What every call gets on its way to the control plane: a span, the token, the trace and, when it
//! is not a stream, a deadline.
//!
//! The path of the request names the method, and the schema says which methods answer once. So
//! callers name neither.

use std::{
    collections::HashSet,
    error::Error,
    future::Future,
    mem,
    pin::Pin,
    sync::LazyLock,
    task::{Context, Poll},
};

use http::{HeaderValue, Request, Response};
use http_body_util::BodyExt as _;
use kernex_proto::telemetry::code_name;
use prost::Message as _;
use tonic::{Code, Status, body::Body, metadata::MetadataMap};
use tower::Service;
use tracing::{Instrument as _, Span};

/// A call that answers once has 30 seconds; this is how gRPC writes it.
const CALL_TIMEOUT: HeaderValue = HeaderValue::from_static("30S");

type BoxError = Box<dyn Error + Send + Sync>;

/// The methods that answer once, such as `kernex.v1.DeviceService/GetDevice`.
static ANSWERED_ONCE: LazyLock<HashSet<String>> = LazyLock::new(|| {
    // It is compiled in; a test reads it.
    let set = prost_types::FileDescriptorSet::decode(kernex_proto::DESCRIPTORS).unwrap_or_default();
    let mut names = HashSet::new();
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                if !method.client_streaming() && !method.server_streaming() {
                    let (package, service) = (file.package(), service.name());
                    names.insert(format!("{package}.{service}/{}", method.name()));
                }
            }
        }
    }
    names
});

/// A channel that adds these to every call.
#[derive(Clone)]
pub(crate) struct Calls<S> {
    channel: S,
    /// Value of the header `authorization`.
    bearer: HeaderValue,
}

impl<S> Calls<S> {
    /// Puts `bearer` on every call of the channel.
    pub(super) const fn new(channel: S, bearer: HeaderValue) -> Self {
        Self { channel, bearer }
    }
}

impl<S> Service<Request<Body>> for Calls<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.channel.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let method = request.uri().path().trim_start_matches('/');
        let span = span(method);
        let answers_once = ANSWERED_ONCE.contains(method);
        let headers = mem::take(request.headers_mut());
        *request.headers_mut() = self.prepared(headers, answers_once, &span);
        let answer = self.channel.call(request);
        let observed = span.clone();
        let call = async move {
            match answer.await {
                Ok(response) => Ok(observe(response, answers_once, observed)),
                Err(error) => {
                    let status = Status::from_error(error.into());
                    record(&observed, status.code());
                    Err(status.into())
                }
            }
        };
        Box::pin(call.instrument(span))
    }
}

impl<S> Calls<S> {
    fn prepared(
        &self,
        mut headers: http::HeaderMap,
        answers_once: bool,
        span: &Span,
    ) -> http::HeaderMap {
        headers.insert(http::header::AUTHORIZATION, self.bearer.clone());
        if answers_once {
            headers.insert("grpc-timeout", CALL_TIMEOUT);
        }
        let mut metadata = MetadataMap::from_headers(headers);
        span.in_scope(|| kernex_proto::telemetry::inject(&mut metadata));
        metadata.into_headers()
    }
}

fn span(method: &str) -> Span {
    tracing::info_span!(
        "rpc",
        otel.name = method,
        otel.kind = "client",
        rpc.system.name = "grpc",
        rpc.method = method,
        rpc.response.status_code = tracing::field::Empty,
        "error.type" = tracing::field::Empty,
        otel.status_code = tracing::field::Empty,
    )
}

fn record(span: &Span, code: Code) {
    span.record("rpc.response.status_code", code_name(code));
    if code != Code::Ok {
        span.record("error.type", code_name(code));
        span.record("otel.status_code", "ERROR");
    }
}

/// Records how the call ended. The span of a call that answers once lasts until its answer is
/// read; that of a stream, which may last for days, until it has begun.
fn observe(response: Response<Body>, answers_once: bool, span: Span) -> Response<Body> {
    // A refusal may come as headers alone.
    if let Some(status) = Status::from_header_map(response.headers()) {
        record(&span, status.code());
        return response;
    }
    if !answers_once {
        record(&span, Code::Ok);
        return response;
    }
    response.map(|body| {
        let broken = span.clone();
        let observed = body
            .map_frame(move |frame| {
                if let Some(status) = frame.trailers_ref().and_then(Status::from_header_map) {
                    record(&span, status.code());
                }
                frame
            })
            .map_err(move |status| {
                record(&broken, status.code());
                status
            });
        Body::new(observed)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use kernex_proto::v1::{self, device_service_client::DeviceServiceClient};
    use tower::service_fn;

    use super::*;

    #[tokio::test]
    async fn every_call_has_the_token_and_those_that_answer_once_a_deadline() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let headers = Arc::clone(&seen);
        let refusing = service_fn(move |request: Request<Body>| {
            headers.lock().unwrap().push(request.headers().clone());
            async { Ok::<_, BoxError>(Status::not_found("no such device").into_http::<Body>()) }
        });
        let calls = Calls::new(refusing, HeaderValue::from_static("Bearer secret"));
        let mut client = DeviceServiceClient::new(calls);
        let refused = client.get_device(v1::GetDeviceRequest::default()).await;
        assert_eq!(refused.unwrap_err().code(), Code::NotFound);
        let refused = client
            .watch_devices(v1::WatchDevicesRequest::default())
            .await;
        assert_eq!(refused.unwrap_err().code(), Code::NotFound);
        let seen = seen.lock().unwrap();
        assert_eq!(seen.len(), 2);
        for headers in seen.iter() {
            assert_eq!(headers["authorization"], "Bearer secret");
        }
        assert_eq!(seen[0]["grpc-timeout"], "30S");
        assert!(!seen[1].contains_key("grpc-timeout"));
    }

    #[test]
    fn the_schema_says_which_calls_answer_once() {
        for name in ["DeviceService/GetDevice", "PlanService/PlanDeployment"] {
            assert!(
                ANSWERED_ONCE.contains(&format!("kernex.v1.{name}")),
                "{name}"
            );
        }
        for name in [
            "BundleService/UploadBundle",
            "BundleService/FetchBundle",
            "RolloutService/HaltDeployment",
            "DeploymentService/WatchDeployment",
        ] {
            assert!(
                !ANSWERED_ONCE.contains(&format!("kernex.v1.{name}")),
                "{name}"
            );
        }
    }
}
