//! Events of the fleet. The JSON of a row becomes fields, so that no client has to know the JSON of
//! each kind.

use std::collections::BTreeMap;

use kernex_proto::v1::{self, event::Details};
use serde_json::{Map, Value};

use crate::store::EventRow;

/// The author of what the server does by itself.
const SERVER: &str = "kernex";

impl From<EventRow> for v1::Event {
    fn from(event: EventRow) -> Self {
        let detail = Detail::read(&event.detail_json);
        let device = event.device.map(|device| device.to_string());
        let deployment = event.deployment.map(|deployment| deployment.to_string());
        let name = event.device_name.or_else(|| {
            // The event of a deleted device has its name.
            device.as_ref().map(|_| detail.text("name"))
        });
        Self {
            cursor: event.cursor,
            at: Some(event.at.to_proto()),
            device_id: device.unwrap_or_default(),
            deployment_id: deployment.unwrap_or_default(),
            device_name: name.unwrap_or_default(),
            deployment_name: event.deployment_name.unwrap_or_default(),
            bundle: event.bundle.unwrap_or_else(|| detail.text("bundle")),
            by: maker(&event.kind, &detail),
            reason: detail.text("reason"),
            message: detail.first_text(&["message", "refusal", "why"]),
            details: details(&event.kind, &detail),
            kind: event.kind,
            detail_json: event.detail_json,
        }
    }
}

/// Who made it happen; empty where the device did.
fn maker(kind: &str, detail: &Detail) -> String {
    let by = detail.text("by");
    let subject = kind.split('.').next().unwrap_or(kind);
    let is_servers = matches!(subject, "deployment" | "server")
        || matches!(kind, "attempt.expired" | "attempt.superseded");
    match (by.is_empty(), is_servers) {
        (false, _) => by,
        (true, true) => SERVER.to_owned(),
        (true, false) => String::new(),
    }
}

fn details(kind: &str, detail: &Detail) -> Option<Details> {
    let (subject, _) = kind.split_once('.')?;
    Some(match subject {
        "attempt" => Details::Attempt(v1::AttemptEvent {
            target_id: detail.text("target"),
            attempt: detail.number("attempt"),
            late_state: detail.text("late_state"),
        }),
        "deployment" => Details::Deployment(v1::DeploymentEvent {
            devices: detail.number("devices"),
            phase: detail.number("phase"),
            result: detail.text("result"),
            rolls_back: detail.text("rolls_back"),
            rollback: detail.text("rollback"),
            retried: detail.number("targets"),
        }),
        "device" => Details::Device(v1::DeviceEvent {
            expected_version: detail.text("expected"),
            actual_version: detail.text("actual"),
            disk_fault: detail.text("fault"),
            set_labels: detail.labels("set"),
            removed_labels: detail.texts("remove"),
            unanswered: detail.number("unanswered"),
        }),
        "configuration" => Details::Configuration(v1::ConfigurationEvent {
            name: detail.text("configuration"),
            revision: detail.number("revision").into(),
        }),
        "bundle" => Details::BundleDetails(v1::BundleEvent {
            digest: detail.text("digest"),
        }),
        "server" => Details::Server(v1::ServerEvent {
            clock_drift_seconds: detail.number("drift_seconds").into(),
        }),
        _ => return None,
    })
}

/// The JSON object of an event. A field that is not there counts as empty.
struct Detail(Map<String, Value>);

impl Detail {
    fn read(text: &str) -> Self {
        Self(serde_json::from_str(text).unwrap_or_default())
    }

    fn text(&self, key: &str) -> String {
        let text = self.0.get(key).and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    }

    fn first_text(&self, keys: &[&str]) -> String {
        let mut texts = keys.iter().map(|key| self.text(key));
        texts.find(|text| !text.is_empty()).unwrap_or_default()
    }

    fn number(&self, key: &str) -> u32 {
        let number = self.0.get(key).and_then(Value::as_u64).unwrap_or(0);
        u32::try_from(number).unwrap_or(u32::MAX)
    }

    fn texts(&self, key: &str) -> Vec<String> {
        let texts = self.0.get(key).and_then(Value::as_array);
        let texts = texts.into_iter().flatten().filter_map(Value::as_str);
        texts.map(str::to_owned).collect()
    }

    fn labels(&self, key: &str) -> BTreeMap<String, String> {
        let labels = self.0.get(key).and_then(Value::as_object);
        let labels = labels.into_iter().flatten();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        labels
            .map(|(key, value)| (key.clone(), text(value)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernex_proto::ids::{DeploymentId, DeviceId};

    use crate::clock::Timestamp;

    fn event(kind: &str, detail: &str) -> v1::Event {
        let is_of_device = kind.starts_with("device.") || kind.starts_with("attempt.");
        EventRow {
            cursor: 7,
            at: Timestamp(0),
            kind: kind.into(),
            device: is_of_device.then(DeviceId::generate),
            deployment: kind.starts_with("attempt.").then(DeploymentId::generate),
            device_name: None,
            deployment_name: None,
            bundle: None,
            detail_json: detail.into(),
        }
        .into()
    }

    #[test]
    fn an_event_names_its_device_its_maker_and_why() {
        let offline = event("device.offline", r#"{"name":"edge-1","reason":"silent"}"#);
        let named = (offline.device_name.as_str(), offline.reason.as_str());
        assert_eq!(named, ("edge-1", "silent"));
        assert_eq!(offline.by, "", "its device did it");
        let labelled = event(
            "device.labelled",
            r#"{"name":"edge-1","by":"ada","set":{"site":"berlin"},"remove":["old"]}"#,
        );
        assert_eq!(labelled.by, "ada");
        let Some(Details::Device(device)) = labelled.details else {
            panic!("{labelled:?}");
        };
        assert_eq!(device.set_labels["site"], "berlin");
        assert_eq!(device.removed_labels, ["old"]);
        let failed = event(
            "attempt.failed",
            r#"{"target":"t","attempt":2,"reason":"script_failed"}"#,
        );
        let named = (failed.reason.as_str(), failed.by.as_str());
        assert_eq!(named, ("script_failed", ""));
        let Some(Details::Attempt(attempt)) = failed.details else {
            panic!("{failed:?}");
        };
        assert_eq!((attempt.target_id.as_str(), attempt.attempt), ("t", 2));
        let paused = event(
            "deployment.paused",
            r#"{"reason":"phase 1: 2 of 2 failed"}"#,
        );
        assert_eq!(paused.by, "kernex", "by itself");
        let pushed = event(
            "bundle.uploaded",
            r#"{"bundle":"app:1.0","digest":"ab","by":"ci"}"#,
        );
        let named = (pushed.bundle.as_str(), pushed.by.as_str());
        assert_eq!(named, ("app:1.0", "ci"));
    }

    #[test]
    fn a_detail_that_is_no_object_and_a_kind_of_tomorrow_do_no_harm() {
        let odd = event("weather.changed", "[1]");
        assert_eq!(odd.kind, "weather.changed");
        assert_eq!(odd.details, None);
        let cut = event("device.online", "{");
        assert_eq!(cut.device_name, "");
    }
}
