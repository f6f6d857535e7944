//! Events, as printed.

use kernex_proto::v1;
use serde::Serialize;
use serde_json::Value;

use super::{Field, Time, View};

#[derive(Debug, Clone, Serialize)]
pub(crate) struct EventView {
    cursor: u64,
    at: Option<Time>,
    kind: String,
    /// Empty unless it is about a device.
    device_id: String,
    /// Empty unless it is about a deployment.
    deployment_id: String,
    /// Name of the device; empty unless it is about one.
    device: String,
    /// Empty unless it is about a bundle or a deployment.
    bundle: String,
    /// Who made it happen: an operator, `kernex` for the server by itself; empty when its device
    /// did.
    by: String,
    /// Why, where there is a why.
    reason: String,
    message: String,
    detail: Value,
}

impl From<v1::Event> for EventView {
    fn from(wire: v1::Event) -> Self {
        let detail = serde_json::from_str(&wire.detail_json);
        Self {
            cursor: wire.cursor,
            at: Time::from_wire(wire.at),
            kind: wire.kind,
            device_id: wire.device_id,
            deployment_id: wire.deployment_id,
            device: wire.device_name,
            bundle: wire.bundle,
            by: wire.by,
            reason: wire.reason,
            message: wire.message,
            detail: detail.unwrap_or(Value::Null),
        }
    }
}

/// The fields of a JSON object on one line: `name=edge-1 reason=script_failed`.
pub(super) fn fields(object: &Value) -> String {
    fields_but(object, &[])
}

/// The same without those that stand elsewhere.
fn fields_but(object: &Value, elsewhere: &[&str]) -> String {
    let fields = object.as_object().into_iter().flatten();
    let words: Vec<String> = fields
        .filter(|(key, value)| !value.is_null() && !elsewhere.contains(&key.as_str()))
        .map(|(key, value)| match value {
            Value::String(text) => format!("{key}={text}"),
            other => format!("{key}={other}"),
        })
        .collect();
    words.join(" ")
}

impl View for EventView {
    const EMPTY: &'static str = "Nothing happened yet.";

    fn header(_wide: bool) -> Vec<&'static str> {
        vec![
            "CURSOR",
            "AT",
            "KIND",
            "DEVICE",
            "DEPLOYMENT",
            "BUNDLE",
            "BY",
            "DETAIL",
        ]
    }

    fn row(&self, _wide: bool, _now: Time) -> Vec<Field> {
        vec![
            Field::plain(self.cursor.to_string()),
            Field::plain(self.at.map_or_else(String::new, |at| at.to_string())),
            Field::plain(&self.kind),
            // An earlier server tells no names.
            Field::plain(if self.device.is_empty() {
                &self.device_id
            } else {
                &self.device
            }),
            Field::plain(&self.deployment_id),
            Field::plain(&self.bundle),
            Field::plain(&self.by),
            Field::plain(fields_but(
                &self.detail,
                &["name", "by", "bundle", "target"],
            )),
        ]
    }

    fn name(&self) -> String {
        self.cursor.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Format, Printer};
    use super::*;

    #[test]
    fn an_event_is_one_line_in_every_format() {
        let event = EventView::from(v1::Event {
            cursor: 7,
            at: Some(prost_types::Timestamp {
                seconds: 100,
                nanos: 0,
            }),
            kind: "device.drifted".into(),
            device_id: "d".into(),
            detail_json: r#"{"name":"edge-1","expected":null,"actual":"2.0"}"#.into(),
            device_name: "edge-1".into(),
            ..Default::default()
        });
        let line = |format| {
            Printer::plain(format)
                .render_line(&event, Time::at(110))
                .unwrap()
        };
        insta::assert_snapshot!(line(Format::Table), @"7  1970-01-01T00:01:40Z  device.drifted  edge-1  -  -  -  actual=2.0");
        insta::assert_snapshot!(line(Format::Json), @r#"{"cursor":7,"at":"1970-01-01T00:01:40Z","kind":"device.drifted","device_id":"d","deployment_id":"","device":"edge-1","bundle":"","by":"","reason":"","message":"","detail":{"actual":"2.0","expected":null,"name":"edge-1"}}"#);
        assert_eq!(line(Format::Name), "7\n");
    }
}
