//! Events, as printed.

use kernex_proto::v1;
use serde::Serialize;
use serde_json::Value;

use super::{Field, Time, View, short_id, wire::Wire};

#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub(crate) struct EventView {
    event: Wire<v1::Event>,
}

impl From<v1::Event> for EventView {
    fn from(event: v1::Event) -> Self {
        Self { event: Wire(event) }
    }
}

/// The fields of a JSON object on one line, without those that stand elsewhere:
/// `name=edge-1 reason=script_failed`.
pub(super) fn fields(json: &str, elsewhere: &[&str]) -> String {
    let object: Value = serde_json::from_str(json).unwrap_or_default();
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

    fn row(&self, wide: bool, _now: Time) -> Vec<Field> {
        let event = &self.event;
        let at = Time::from_wire(event.at);
        // An older server does not send names.
        let device = match event.device_name.as_str() {
            "" => event.device_id.as_str(),
            name => name,
        };
        // A line is short, and has what commands take; -o wide has all.
        let deployment = match (wide, event.deployment_name.as_str()) {
            (true, _) => event.deployment_id.as_str(),
            (false, "") => short_id(&event.deployment_id),
            (false, name) => name,
        };
        let at = at.map(|at| {
            if wide {
                at.to_string()
            } else {
                at.to_seconds()
            }
        });
        vec![
            Field::plain(event.cursor.to_string()),
            Field::plain(at.unwrap_or_default()),
            Field::plain(&event.kind),
            Field::plain(device),
            Field::plain(deployment),
            Field::plain(&event.bundle),
            Field::plain(&event.by),
            Field::plain(fields(
                &event.detail_json,
                &["name", "by", "bundle", "target"],
            )),
        ]
    }

    fn name(&self) -> String {
        self.event.cursor.to_string()
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
        insta::assert_snapshot!(line(Format::Json), @r#"{"cursor":7,"at":"1970-01-01T00:01:40Z","kind":"device.drifted","device_id":"d","deployment_id":"","detail":{"actual":"2.0","expected":null,"name":"edge-1"},"device_name":"edge-1","bundle":"","by":"","reason":"","message":"","deployment_name":""}"#);
        assert_eq!(line(Format::Name), "7\n");
    }

    #[test]
    fn a_deployment_is_told_by_what_commands_take() {
        let id = "01a22470-1f3c-7abc-8def-000000000001";
        let line = |format, name: &str| {
            let event = EventView::from(v1::Event {
                kind: "deployment.created".into(),
                deployment_id: id.into(),
                deployment_name: name.into(),
                ..Default::default()
            });
            Printer::plain(format)
                .render_line(&event, Time::at(0))
                .unwrap()
        };
        assert!(line(Format::Table, "nightly.7").contains("  nightly.7  "));
        assert!(line(Format::Table, "").contains("  01a22470-1f3c  "));
        assert!(line(Format::Wide, "nightly.7").contains(id));
    }
}
