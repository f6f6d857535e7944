//! Where spans go, and what is said about the program they come from.

use std::{
    env, fs,
    time::{Duration, Instant},
};

use opentelemetry::KeyValue;
use opentelemetry_otlp::{RetryPolicy, WithTonicConfig as _};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    resource::{EnvResourceDetector, TelemetryResourceDetector},
    trace::{SdkTracerProvider, SpanData, SpanExporter},
};
use parking_lot::Mutex;

use super::{TelemetryError, set};
use crate::error::chain;

/// A collector that does not answer is named this often.
const TELL_AGAIN: Duration = Duration::from_secs(300);

/// The program that does not wait for a collector: its user waits for its end.
const COMMAND: &str = "kernexctl";
/// How often the others try to send a batch again.
const RETRIES: usize = 3;

/// Sends spans in batches to the collector that the environment names.
pub(super) fn provider(service: &'static str) -> Result<SdkTracerProvider, TelemetryError> {
    if tokio::runtime::Handle::try_current().is_err() {
        return Err(TelemetryError::NoRuntime);
    }
    let retries = if service == COMMAND { 0 } else { RETRIES };
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_retry_policy(RetryPolicy::default().with_max_retries(retries))
        .build()
        .map_err(TelemetryError::Exporter)?;
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(Telling {
            exporter,
            told: Mutex::new(None),
        })
        .with_resource(resource(service))
        .build())
}

/// Who sends. `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SERVICE_NAME` win over what is found here.
fn resource(service: &'static str) -> Resource {
    let instance = uuid::Uuid::new_v4().to_string();
    let mut attributes = vec![
        KeyValue::new("service.name", service),
        KeyValue::new("service.namespace", "kernex"),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        // Each start of a program is another one.
        KeyValue::new("service.instance.id", instance),
        KeyValue::new("process.pid", i64::from(std::process::id())),
        KeyValue::new("os.type", env::consts::OS),
    ];
    attributes.extend(host_name().map(|name| KeyValue::new("host.name", name)));
    let resource = Resource::builder_empty()
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_attributes(attributes)
        .with_detector(Box::new(EnvResourceDetector::new()));
    match set("OTEL_SERVICE_NAME") {
        Some(name) => resource.with_service_name(name).build(),
        None => resource.build(),
    }
}

fn host_name() -> Option<String> {
    let of_kernel = fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = of_kernel.or_else(|| set("HOSTNAME").or_else(|| set("COMPUTERNAME")))?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

/// An exporter whose errors are one plain line now and then, instead of one of the library's own
/// for each batch.
#[derive(Debug)]
struct Telling<E> {
    exporter: E,
    /// When the last error was told.
    told: Mutex<Option<Instant>>,
}

impl<E: SpanExporter> SpanExporter for Telling<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        if let Err(error) = self.exporter.export(batch).await {
            self.tell(spans, &chain(&error));
        }
        Ok(())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl<E> Telling<E> {
    fn tell(&self, spans: usize, error: &str) {
        let now = Instant::now();
        {
            let mut told = self.told.lock();
            if told.is_some_and(|at| now.duration_since(at) < TELL_AGAIN) {
                return;
            }
            *told = Some(now);
        }
        let endpoint = set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
            .or_else(|| set("OTEL_EXPORTER_OTLP_ENDPOINT"));
        tracing::warn!(
            endpoint = without_credentials(&endpoint.unwrap_or_default()),
            spans,
            error,
            "traces are lost: the collector cannot be reached"
        );
    }
}

/// A URL without the name and the password that may be in it.
fn without_credentials(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    if scheme.is_empty() {
        host.to_owned()
    } else {
        format!("{scheme}://{host}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_says_who_it_is() {
        let resource = resource("kernex-agent");
        let value = |name: &'static str| {
            let found = resource.get(&opentelemetry::Key::from_static_str(name));
            found.map(|value| value.to_string()).unwrap_or_default()
        };
        assert_eq!(value("service.name"), "kernex-agent");
        assert_eq!(value("service.version"), env!("CARGO_PKG_VERSION"));
        assert_eq!(value("service.instance.id").len(), 36);
        assert!(!value("host.name").is_empty());
    }

    #[test]
    fn a_password_of_the_collector_is_not_told() {
        for (url, shown) in [
            ("http://ada:secret@c:4317", "http://c:4317"),
            ("http://c:4317", "http://c:4317"),
            ("ada:p@c", "c"),
        ] {
            assert_eq!(without_credentials(url), shown);
        }
    }
}
