use std::sync::Mutex;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Dispatch;
use tracing_subscriber::{filter::LevelFilter, layer::SubscriberExt as _};

use super::*;
use crate::telemetry::set_parent;

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// What `work` logs, a line each.
fn logged(format: LogFormat, exported: bool, work: impl FnOnce()) -> Vec<String> {
    let said = Arc::new(Mutex::new(String::new()));
    let into = Arc::clone(&said);
    let write = move |line: &str| into.lock().unwrap().push_str(line);
    let provider = SdkTracerProvider::builder().build();
    let traces =
        exported.then(|| tracing_opentelemetry::layer().with_tracer(provider.tracer("test")));
    let exporting = Exporting::default();
    let lines = Lines::new(format, false, Arc::clone(&exporting), write);
    // As in a program, where what is logged can be filtered.
    let lines = lines.with_filter(LevelFilter::TRACE);
    let dispatch = Dispatch::new(tracing_subscriber::registry().with(traces).with(lines));
    exporting.set(dispatch.downgrade()).unwrap();
    tracing::dispatcher::with_default(&dispatch, work);
    let said = said.lock().unwrap();
    said.lines().map(str::to_owned).collect()
}

/// A JSON line, and its keys in order.
fn parsed(line: &str) -> (Value, Vec<String>) {
    let value: Value = serde_json::from_str(line).expect("a JSON object");
    // serde_json keeps the last of two keys and says nothing, so they are counted in the text.
    let mut keys = Vec::new();
    let object = value.as_object().expect("an object");
    for key in object.keys() {
        let name = Value::from(key.as_str()).to_string() + ":";
        keys.extend(vec![key.clone(); line.matches(&name).count()]);
    }
    (value, keys)
}

#[test]
fn no_name_stands_twice_in_a_line_and_nothing_is_lost() {
    let lines = logged(LogFormat::Json, false, || {
        let outer = tracing::info_span!("outer", device = "d1", session = 1, caller = "ada");
        let _outer = outer.enter();
        let inner = tracing::info_span!("inner", session = 2, otel.kind = "server");
        let _inner = inner.enter();
        tracing::info!(message = "why", state = "failed", level = 3, "finished");
        tracing::info!(device = "d2", "moved");
    });
    let (first, keys) = parsed(&lines[0]);
    let mut unique = keys.clone();
    unique.dedup();
    assert_eq!(keys, unique, "{}", lines[0]);
    assert_eq!(first["message"], "finished");
    assert_eq!(first["message_"], "why");
    assert_eq!(
        (&first["level"], &first["level_"]),
        (&"INFO".into(), &3.into())
    );
    assert_eq!(first["session"], 2, "the inner span wins");
    assert_eq!(first["caller"], "ada");
    assert!(first.get("otel.kind").is_none());
    let (second, _) = parsed(&lines[1]);
    assert_eq!(second["device"], "d2", "the event wins");
}

#[test]
fn what_a_span_learns_is_in_its_lines() {
    let lines = logged(LogFormat::Text, false, || {
        let span = tracing::info_span!("rpc", caller = tracing::field::Empty, code = 1);
        let _entered = span.enter();
        span.record("caller", "ada lovelace");
        span.record("code", 2);
        tracing::warn!("refused");
    });
    assert!(
        lines[0].ends_with("refused code=2 caller=\"ada lovelace\""),
        "{lines:?}"
    );
}

#[test]
fn a_line_of_text_stays_one_line_whatever_is_in_it() {
    let hostile = "a\n2026-01-01 INFO forged\x1b[2J";
    let lines = logged(LogFormat::Text, false, || {
        tracing::info!(name = hostile, "said: {hostile}");
    });
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(!lines[0].contains('\x1b'), "{lines:?}");
    assert!(lines[0].contains("said: a\\n2026"), "{lines:?}");
}

#[test]
fn the_trace_is_in_each_line_with_and_without_an_exporter() {
    for exported in [false, true] {
        let lines = logged(LogFormat::Json, exported, || {
            let span = tracing::info_span!("rpc", trace_id = tracing::field::Empty);
            set_parent(&span, PARENT);
            let _entered = span.enter();
            let within = tracing::info_span!("within");
            let _within = within.enter();
            tracing::info!("here");
        });
        let (line, _) = parsed(&lines[0]);
        assert_eq!(
            line["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736",
            "exported: {exported}"
        );
    }
    let lines = logged(LogFormat::Json, false, || tracing::info!("alone"));
    assert!(parsed(&lines[0]).0.get("trace_id").is_none());
}

#[test]
fn an_error_is_told_with_its_causes() {
    let lines = logged(LogFormat::Text, false, || {
        let error = std::io::Error::other("outer");
        tracing::warn!(
            error = &error as &dyn Error,
            ratio = f64::INFINITY,
            "failed"
        );
    });
    assert!(
        lines[0].ends_with("failed error=outer ratio=inf"),
        "{lines:?}"
    );
}
