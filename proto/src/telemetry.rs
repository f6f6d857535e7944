//! Logs and traces, set up the same way in all three programs, so that one trace runs from an
//! operator's order to the script on a device.
//!
//! Logs go to stderr. Spans are made and exported only when `OTEL_EXPORTER_OTLP_ENDPOINT` (or
//! `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`) is set; without it there is no OpenTelemetry layer and no
//! cost. The other `OTEL_*` variables mean what the OpenTelemetry specification says.

mod context;
mod exporter;
mod lines;

use std::{
    env,
    io::{IsTerminal as _, Write as _},
    sync::Arc,
    time::Duration,
};

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::{Dispatch, Level, Subscriber, dispatcher};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{LevelFilter, filter_fn},
    layer::SubscriberExt as _,
    registry::LookupSpan,
    reload,
    util::SubscriberInitExt as _,
};

pub use self::context::{current_traceparent, extract, inject, set_parent};

/// How long [`TelemetryGuard::shutdown`] waits for a collector that does not answer.
const FLUSH_DEADLINE: Duration = Duration::from_secs(3);

/// What is logged where no filter has a level for everything.
const DEFAULT_LEVEL: LevelFilter = LevelFilter::INFO;

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Why logs or traces could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter, from `RUST_LOG` or the configuration, makes no sense.
    #[error("`{filter}` is not a log filter like `info` or `info,kernex_server=debug`")]
    Filter {
        filter: String,
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// The exporter refuses its configuration.
    #[error("the trace exporter cannot be set up; check the OTEL_EXPORTER_OTLP_* variables")]
    Exporter(#[source] opentelemetry_otlp::ExporterBuildError),
    /// The exporter needs a runtime to send from.
    #[error("traces need a tokio runtime, and there is none")]
    NoRuntime,
    #[error("logs are set up already")]
    Twice(#[source] tracing_subscriber::util::TryInitError),
}

/// A status code as traces, logs and metrics spell it, such as `NOT_FOUND`.
#[must_use]
pub const fn code_name(code: tonic::Code) -> &'static str {
    use tonic::Code;
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// Keeps the exporter; call [`shutdown`](Self::shutdown) last, or the latest spans are lost.
#[derive(Debug)]
#[must_use = "spans that are not flushed are lost"]
pub struct TelemetryGuard {
    provider: Option<SdkTracerProvider>,
    log_filter: LogFilter,
}

/// Changes what is logged while the process runs.
#[derive(Clone)]
pub struct LogFilter {
    default: String,
    /// The level of filters that have none for everything.
    level: LevelFilter,
    set: Arc<dyn Fn(EnvFilter) -> bool + Send + Sync>,
}

impl std::fmt::Debug for LogFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogFilter")
            .field("default", &self.default)
            .field("level", &self.level)
            .finish_non_exhaustive()
    }
}

impl LogFilter {
    /// Uses another filter from now on; `None` is the one the process was started with. A filter
    /// without a level for everything, such as `kernex_agent=debug`, keeps the one of the start.
    pub fn set(&self, text: Option<&str>) -> Result<(), TelemetryError> {
        let filter = filter(text.unwrap_or(&self.default), self.level)?;
        // It fails only after the logs themselves are gone.
        let _ = (self.set)(filter);
        Ok(())
    }
}

/// Whether a text is a filter for logs.
pub fn check_filter(text: &str) -> Result<(), TelemetryError> {
    filter(text, DEFAULT_LEVEL).map(drop)
}

impl TelemetryGuard {
    /// Whether spans are exported.
    #[must_use]
    pub fn exports_traces(&self) -> bool {
        self.provider.is_some()
    }

    /// The way to change what is logged.
    #[must_use]
    pub fn log_filter(&self) -> LogFilter {
        self.log_filter.clone()
    }

    /// Sends what is left, for three seconds at most.
    pub async fn shutdown(self) {
        let Some(provider) = self.provider else {
            return;
        };
        // The exporter blocks its caller while the runtime does the sending.
        let flush =
            tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FLUSH_DEADLINE));
        match tokio::time::timeout(FLUSH_DEADLINE * 2, flush).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::warn!(%error, "the last spans were not exported"),
            Ok(Err(error)) => tracing::warn!(%error, "the last spans were not exported"),
            Err(_) => tracing::warn!("the last spans were not exported in time"),
        }
    }
}

/// Sets logs up for the whole process, and traces when the environment asks for them.
///
/// `RUST_LOG` wins over `default_filter`, but for the level for everything when it has none. With
/// traces this must be called within a tokio runtime.
pub fn init(
    service: &'static str,
    default_filter: &str,
    format: LogFormat,
) -> Result<TelemetryGuard, TelemetryError> {
    let default = set("RUST_LOG").unwrap_or_else(|| default_filter.to_owned());
    let level = level(&default).or_else(|| level(default_filter));
    let level = level.unwrap_or(DEFAULT_LEVEL);
    let (filter, handle) = reload::Layer::new(filter(&default, level)?);
    let log_filter = LogFilter {
        default,
        level,
        set: Arc::new(move |filter| handle.reload(filter).is_ok()),
    };
    let provider = if wanted(set) {
        Some(exporter::provider(service)?)
    } else {
        None
    };
    let traces = provider
        .as_ref()
        .map(|provider| trace_layer(provider, service));
    let exporting = lines::Exporting::default();
    let lines = log_layer(format, Arc::clone(&exporting));
    Registry::default()
        .with(traces)
        .with(lines.with_filter(filter))
        .try_init()
        .map_err(TelemetryError::Twice)?;
    if provider.is_some() {
        let _ = exporting.set(dispatcher::get_default(Dispatch::downgrade));
    }
    Ok(TelemetryGuard {
        provider,
        log_filter,
    })
}

/// The level for everything that a filter has, if it has one.
fn level(filter: &str) -> Option<LevelFilter> {
    let parts = filter.split(',').map(str::trim);
    let levels = parts.filter(|part| !part.is_empty());
    levels.filter_map(|part| part.parse().ok()).next_back()
}

/// Without a level for everything, a filter that names one target would silence all others, errors
/// too. So it gets this one.
fn filter(text: &str, level: LevelFilter) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::builder()
        // Of two levels for everything the later one counts.
        .parse(format!("{level},{text}"))
        .map_err(|source| TelemetryError::Filter {
            filter: text.to_owned(),
            source,
        })
}

/// An environment variable that is set and not empty.
fn set(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.trim().is_empty())
}

fn wanted(set: impl Fn(&str) -> Option<String>) -> bool {
    let disabled = set("OTEL_SDK_DISABLED").is_some_and(|v| v.eq_ignore_ascii_case("true"));
    let endpoint =
        set("OTEL_EXPORTER_OTLP_ENDPOINT").or_else(|| set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"));
    endpoint.is_some() && !disabled
}

/// Spans of Kernex only: those of the transport would trace the exporter exporting.
fn trace_layer<S>(provider: &SdkTracerProvider, service: &'static str) -> impl Layer<S> + use<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer(service))
        // Where in the code, on which thread and how busy: for a profiler, not for a trace.
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_target(false)
        .with_level(false)
        .with_filter(
            filter_fn(|metadata| {
                metadata.target().starts_with("kernex") && *metadata.level() <= Level::INFO
            })
            .with_max_level_hint(Level::INFO),
        )
}

fn log_layer<S>(format: LogFormat, exporting: lines::Exporting) -> impl Layer<S> + use<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let colours = std::io::stderr().is_terminal() && set("NO_COLOR").is_none();
    lines::Lines::new(format, colours, exporting, |line: &str| {
        // When stderr is closed, the line is lost.
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_are_made_only_when_asked_for() {
        let env = |pairs: &'static [(&str, &str)]| {
            move |name: &str| {
                let found = pairs.iter().find(|(n, _)| *n == name);
                found.map(|(_, value)| (*value).to_owned())
            }
        };
        assert!(!wanted(env(&[])));
        assert!(wanted(env(&[(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "http://c:4317"
        )])));
        assert!(wanted(env(&[(
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "http://c:4317"
        )])));
        assert!(!wanted(env(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317"),
            ("OTEL_SDK_DISABLED", "True"),
        ])));
    }

    #[test]
    fn a_bad_filter_is_named() {
        for bad in ["info,=loud=", "=loud=", "a=loud"] {
            let error = filter(bad, DEFAULT_LEVEL).unwrap_err();
            assert!(error.to_string().contains(&format!("`{bad}`")), "{error}");
            assert!(check_filter(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_filter_without_a_level_for_everything_keeps_the_default_one() {
        for (text, same_as) in [
            ("", "warn"),
            ("debug", "debug"),
            ("off", "off"),
            ("a=debug", "warn,a=debug"),
            ("a=debug,b::c=off", "warn,a=debug,b::c=off"),
            ("a=debug,error", "error,a=debug"),
            ("error,a=debug", "error,a=debug"),
            ("a", "warn,a=trace"),
            ("[span]=debug", "warn,[span]=debug"),
            ("off,a=debug", "off,a=debug"),
        ] {
            let plain = EnvFilter::builder().parse(same_as).unwrap();
            let found = filter(text, LevelFilter::WARN).unwrap();
            assert_eq!(found.to_string(), plain.to_string(), "{text}");
        }
        for (text, expected) in [
            ("", None),
            ("a=debug", None),
            ("a", None),
            ("info", Some(LevelFilter::INFO)),
            ("a=debug, WARN", Some(LevelFilter::WARN)),
            ("info,a=debug,off", Some(LevelFilter::OFF)),
        ] {
            assert_eq!(level(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_logged_can_be_changed_and_changed_back() {
        let (layer, handle) =
            reload::Layer::<_, Registry>::new(super::filter("warn", DEFAULT_LEVEL).unwrap());
        let current = handle.clone();
        let _layer = layer;
        let filter = LogFilter {
            default: "warn".to_owned(),
            level: LevelFilter::WARN,
            set: Arc::new(move |filter| handle.reload(filter).is_ok()),
        };
        let now = || current.with_current(ToString::to_string).unwrap();
        filter.set(Some("kernex_agent=trace")).unwrap();
        assert_eq!(now(), "kernex_agent=trace,warn");
        assert!(filter.set(Some("=loud=")).is_err());
        assert_eq!(now(), "kernex_agent=trace,warn");
        filter.set(None).unwrap();
        assert_eq!(now(), "warn");
    }

    #[tokio::test]
    async fn a_guard_without_an_exporter_has_nothing_to_wait_for() {
        let guard = TelemetryGuard {
            provider: None,
            log_filter: LogFilter {
                default: "info".to_owned(),
                level: DEFAULT_LEVEL,
                set: Arc::new(|_| true),
            },
        };
        assert!(!guard.exports_traces());
        guard.shutdown().await;
    }
}
