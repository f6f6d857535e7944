//! W3C trace context as it travels: in gRPC metadata, in commands and in reports, and stored with a
//! deployment.

use opentelemetry::{
    Context,
    propagation::{Extractor, Injector, TextMapPropagator as _},
    trace::TraceContextExt as _,
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tracing_opentelemetry::{OpenTelemetrySpanExt as _, SetParentError};

use super::lines::TRACE_ID;

const HEADER: &str = "traceparent";

/// The one header Kernex passes on; a `tracestate` would outgrow the row it is stored in.
#[derive(Default)]
struct Header(String);

impl Injector for Header {
    fn set(&mut self, key: &str, value: String) {
        if key == HEADER {
            self.0 = value;
        }
    }
}

impl Extractor for Header {
    fn get(&self, key: &str) -> Option<&str> {
        (key == HEADER).then_some(self.0.as_str())
    }

    fn keys(&self) -> Vec<&str> {
        vec![HEADER]
    }
}

/// The current span as a `traceparent`, empty when nothing is traced.
#[must_use]
pub fn current_traceparent() -> String {
    traceparent_of(&tracing::Span::current().context())
}

/// Continues the trace of a `traceparent` in `span`; one that is empty or malformed changes
/// nothing. Where nothing is exported, a field `trace_id` of the span is filled instead.
///
/// Call it before the span is entered: a span that has started keeps its parent.
pub fn set_parent(span: &tracing::Span, traceparent: &str) {
    if let Some(parent) = parse(traceparent) {
        let trace = parent.span().span_context().trace_id();
        // It also fails when the span has started; that is not logged.
        if let Err(SetParentError::LayerNotFound) = span.set_parent(parent) {
            // No exporter reads it; the log lines of the span name the trace all the same.
            span.record(TRACE_ID, tracing::field::display(trace));
        }
    }
}

/// Puts the current span into the metadata of a call.
pub fn inject(metadata: &mut MetadataMap) {
    let traceparent = current_traceparent();
    if let Ok(value) = MetadataValue::<Ascii>::try_from(traceparent.as_str())
        && !traceparent.is_empty()
    {
        metadata.insert(HEADER, value);
    }
}

/// The caller's `traceparent`, empty when there is none or it is malformed. Works without an
/// exporter too, so that a server that exports nothing still hands the trace on.
#[must_use]
pub fn extract(metadata: &MetadataMap) -> String {
    let text = metadata.get(HEADER).and_then(|value| value.to_str().ok());
    let parent = text.and_then(parse);
    parent.as_ref().map(traceparent_of).unwrap_or_default()
}

fn traceparent_of(context: &Context) -> String {
    let mut header = Header::default();
    TraceContextPropagator::new().inject_context(context, &mut header);
    header.0
}

fn parse(traceparent: &str) -> Option<Context> {
    // Longer ones belong to a version of the standard that is not out yet; and the text comes from
    // anywhere.
    if traceparent.is_empty() || traceparent.len() > 128 {
        return None;
    }
    let header = Header(traceparent.to_owned());
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &header);
    context.has_active_span().then_some(context)
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use proptest::prelude::*;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn traced(work: impl FnOnce()) {
        let provider = SdkTracerProvider::builder().build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, work);
    }

    #[test]
    fn a_trace_goes_on_over_metadata() {
        traced(|| {
            let span = tracing::info_span!("server");
            set_parent(&span, PARENT);
            let _entered = span.enter();
            let here = current_traceparent();
            assert_eq!(here[..36], PARENT[..36], "the same trace");
            assert_ne!(here[36..52], PARENT[36..52], "another span");

            let mut metadata = MetadataMap::new();
            inject(&mut metadata);
            assert_eq!(extract(&metadata), here);
        });
    }

    #[test]
    fn without_a_trace_there_is_nothing_to_pass_on() {
        assert_eq!(current_traceparent(), "");
        let mut metadata = MetadataMap::new();
        inject(&mut metadata);
        assert!(metadata.is_empty());
        assert_eq!(extract(&metadata), "");
    }

    #[test]
    fn a_caller_is_understood_without_an_exporter() {
        let mut metadata = MetadataMap::new();
        metadata.insert(HEADER, MetadataValue::from_static(PARENT));
        assert_eq!(extract(&metadata), PARENT);
    }

    #[test]
    fn a_malformed_parent_changes_nothing() {
        traced(|| {
            let span = tracing::info_span!("server");
            set_parent(&span, "00-0000-1111-01");
            let _entered = span.enter();
            assert_eq!(current_traceparent().len(), PARENT.len());
        });
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[0-9a-f-]{0,60}|.{0,140}") {
            let _ = parse(&text);
        }
    }
}
