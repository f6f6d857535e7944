//! Log lines: each reads alone.
//!
//! A line has the fields of its event, those of the spans around it that it does not have itself,
//! and the trace it belongs to. No name stands twice in it: many log stores refuse such a line, and
//! others keep only one of the two.

use std::{
    error::Error,
    fmt::{self, Write as _},
    sync::{Arc, OnceLock},
};

use opentelemetry::trace::TraceContextExt as _;
use serde_json::Value;
use tracing::{
    Event, Level, Subscriber,
    dispatcher::WeakDispatch,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{
    Layer,
    fmt::{
        format::Writer,
        time::{FormatTime as _, SystemTime},
    },
    layer::Context,
    registry::{LookupSpan, SpanRef},
};

use super::LogFormat;
use crate::error::chain;

/// Name of the field with the trace, in lines and in spans that are not exported.
pub(super) const TRACE_ID: &str = "trace_id";
/// What says what happened.
const MESSAGE: &str = "message";
/// Field with the target of a line that came through the crate `log`; its event has no target of
/// its own.
const LOG_TARGET: &str = "log.target";

/// Writes a line for each event.
pub(super) struct Lines<W> {
    format: LogFormat,
    colours: bool,
    write: W,
    dispatch: Exporting,
}

/// Where traces are asked for; filled once it is there. A layer below a filter is not told of it.
pub(super) type Exporting = Arc<OnceLock<WeakDispatch>>;

impl<W: Fn(&str)> Lines<W> {
    pub(super) const fn new(
        format: LogFormat,
        colours: bool,
        dispatch: Exporting,
        write: W,
    ) -> Self {
        Self {
            format,
            colours,
            write,
            dispatch,
        }
    }

    /// The trace of the innermost span that is exported.
    fn exported_trace<'a, S>(&self, spans: impl Iterator<Item = SpanRef<'a, S>>) -> Option<String>
    where
        S: LookupSpan<'a> + 'a,
    {
        let dispatch = self.dispatch.get()?.upgrade()?;
        for span in spans {
            let context = tracing_opentelemetry::get_otel_context(&span.id(), &dispatch);
            if let Some(context) = context
                && context.has_active_span()
            {
                return Some(context.span().span_context().trace_id().to_string());
            }
        }
        None
    }
}

impl<S, W> Layer<S> for Lines<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: Fn(&str) + Send + Sync + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Fields::default();
            attributes.record(&mut Recorder(&mut fields, Again::Replaces));
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(&mut Recorder(fields, Again::Replaces));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut Recorder(&mut fields, Again::IsRenamed));
        if let Some(scope) = context.event_scope(event) {
            for span in scope {
                if let Some(of_span) = span.extensions().get::<Fields>() {
                    fields.inherit(of_span);
                }
            }
        }
        if fields.get(TRACE_ID).is_none()
            && let Some(scope) = context.event_scope(event)
            && let Some(trace) = self.exported_trace(scope)
        {
            fields.0.push((TRACE_ID.to_owned(), trace.into()));
        }
        let metadata = event.metadata();
        let target = fields.take(LOG_TARGET);
        fields.0.retain(|(name, _)| !name.starts_with("log."));
        let target = target.as_ref().and_then(Value::as_str);
        let line = Line {
            time: now(),
            level: *metadata.level(),
            target: target.unwrap_or_else(|| metadata.target()),
            message: fields.take(MESSAGE).unwrap_or_default(),
            fields: &fields.0,
        };
        (self.write)(&match self.format {
            LogFormat::Text => line.text(self.colours),
            LogFormat::Json => line.json(),
        });
    }
}

fn now() -> String {
    let mut text = String::new();
    // A string takes everything.
    let _ = SystemTime.format_time(&mut Writer::new(&mut text));
    text
}

struct Line<'a> {
    time: String,
    level: Level,
    target: &'a str,
    message: Value,
    fields: &'a [(String, Value)],
}

impl Line<'_> {
    fn text(&self, colours: bool) -> String {
        let (dim, plain) = if colours {
            ("\x1b[2m", "\x1b[0m")
        } else {
            ("", "")
        };
        let colour = match self.level {
            _ if !colours => "",
            Level::ERROR => "\x1b[31m",
            Level::WARN => "\x1b[33m",
            Level::INFO => "\x1b[32m",
            Level::DEBUG => "\x1b[34m",
            Level::TRACE => "\x1b[35m",
        };
        let Self {
            time,
            level,
            target,
            ..
        } = self;
        let mut line =
            format!("{dim}{time}{plain} {colour}{level:>5}{plain} {dim}{target}:{plain}");
        match &self.message {
            Value::Null => {}
            Value::String(text) => {
                line.push(' ');
                for char in text.chars() {
                    // What peers say may be quoted in it, and must not look like another line.
                    if char.is_control() {
                        line.extend(char.escape_default());
                    } else {
                        line.push(char);
                    }
                }
            }
            other => {
                let _ = write!(line, " {other}");
            }
        }
        for (name, value) in self.fields {
            let _ = match value {
                Value::String(text) if is_simple(text) => {
                    write!(line, " {dim}{name}={plain}{text}")
                }
                Value::String(text) => write!(line, " {dim}{name}={plain}{text:?}"),
                other => write!(line, " {dim}{name}={plain}{other}"),
            };
        }
        line.push('\n');
        line
    }

    fn json(&self) -> String {
        let level = self.level.to_string();
        let mut line = format!(
            "{{\"timestamp\":{},\"level\":{},\"target\":{},\"message\":{}",
            Value::from(self.time.as_str()),
            Value::from(level),
            Value::from(self.target),
            self.message
        );
        for (name, value) in self.fields {
            let _ = write!(line, ",{}:{value}", Value::from(name.as_str()));
        }
        line.push_str("}\n");
        line
    }
}

/// Whether a value can stand in a line of text without quotes.
fn is_simple(text: &str) -> bool {
    let plain = |char: char| char.is_ascii_graphic() && !matches!(char, '"' | '=' | '\\' | '\'');
    !text.is_empty() && text.chars().all(plain)
}

/// Names with their values; no name is there twice.
#[derive(Debug, Default)]
struct Fields(Vec<(String, Value)>);

impl Fields {
    fn get(&self, name: &str) -> Option<&Value> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value)
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        let at = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.remove(at).1)
    }

    /// Takes over the fields of an outer span that are not there yet, but those that only exporters
    /// read.
    fn inherit(&mut self, outer: &Self) {
        for (name, value) in &outer.0 {
            let is_for_exporters = name.starts_with("otel.") || name == "rpc.system.name";
            if !is_for_exporters && self.get(name).is_none() {
                self.0.push((name.clone(), value.clone()));
            }
        }
    }
}

/// What a name that is there already means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Again {
    /// In a span: the newer value counts.
    Replaces,
    /// In an event, or where every line has that name: both stay, the later one under another name.
    IsRenamed,
}

/// Takes the fields of an event or a span.
struct Recorder<'a>(&'a mut Fields, Again);

impl Recorder<'_> {
    fn put(&mut self, field: &Field, value: Value) {
        let mut name = field.name().trim_start_matches("r#").to_owned();
        if matches!(name.as_str(), "timestamp" | "level" | "target") {
            name.push('_');
        }
        if self.1 == Again::IsRenamed {
            while self.0.get(&name).is_some() {
                name.push('_');
            }
        }
        match self.0.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None => self.0.0.push((name, value)),
        }
    }
}

impl Visit for Recorder<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, number(value));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.put(field, chain(value).into());
    }
}

/// JSON has no infinity.
fn number(value: f64) -> Value {
    serde_json::Number::from_f64(value).map_or_else(|| value.to_string().into(), Value::Number)
}

#[cfg(test)]
mod tests;
