//! An OpenTelemetry collector on loopback that keeps every span it is sent.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use parking_lot::Mutex;

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value,
    trace::v1::Span,
};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

/// A span and the program it came from.
#[derive(Debug, Clone)]
pub struct ReceivedSpan {
    /// `service.name` of the program.
    pub service: String,
    /// All that the program says of itself.
    pub resource: BTreeMap<String, String>,
    pub span: Span,
}

impl ReceivedSpan {
    /// An attribute as text; none when the span has none of that name.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<String> {
        let found = self.span.attributes.iter().find(|it| it.key == name)?;
        text(found.value.as_ref()?.value.as_ref()?)
    }
}

fn text(value: &any_value::Value) -> Option<String> {
    match value {
        any_value::Value::StringValue(text) => Some(text.clone()),
        any_value::Value::IntValue(number) => Some(number.to_string()),
        any_value::Value::BoolValue(is_set) => Some(is_set.to_string()),
        _ => None,
    }
}

type Spans = Arc<Mutex<Vec<ReceivedSpan>>>;

#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    spans: Spans,
    _tasks: JoinSet<()>,
}

impl Collector {
    /// Starts one.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("a port is free");
        let address = listener.local_addr().expect("it has an address");
        let spans = Spans::default();
        let service = TraceServiceServer::new(Receiver(Arc::clone(&spans)));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            let _ = Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming)
                .await;
        });
        Self {
            address,
            spans,
            _tasks: tasks,
        }
    }

    /// For `OTEL_EXPORTER_OTLP_ENDPOINT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Everything received so far.
    #[must_use]
    pub fn spans(&self) -> Vec<ReceivedSpan> {
        self.spans.lock().clone()
    }
}

struct Receiver(Spans);

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut kept = self.0.lock();
        for resource in request.into_inner().resource_spans {
            let attributes = resource
                .resource
                .map(|it| it.attributes)
                .unwrap_or_default();
            let attributes = attributes.into_iter();
            let known: BTreeMap<String, String> = attributes
                .filter_map(|it| Some((it.key, text(&it.value?.value?)?)))
                .collect();
            let service = known.get("service.name").cloned().unwrap_or_default();
            let spans = resource
                .scope_spans
                .into_iter()
                .flat_map(|scope| scope.spans);
            kept.extend(spans.map(|span| ReceivedSpan {
                service: service.clone(),
                resource: known.clone(),
                span,
            }));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}
