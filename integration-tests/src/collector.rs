//! An OpenTelemetry collector on loopback that keeps every span it is sent.

use std::{
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
    pub span: Span,
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
            let name = attributes.into_iter().find(|it| it.key == "service.name");
            let name = name.and_then(|it| it.value).and_then(|it| it.value);
            let service = match name {
                Some(any_value::Value::StringValue(text)) => text,
                _ => String::new(),
            };
            let spans = resource
                .scope_spans
                .into_iter()
                .flat_map(|scope| scope.spans);
            kept.extend(spans.map(|span| ReceivedSpan {
                service: service.clone(),
                span,
            }));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}
