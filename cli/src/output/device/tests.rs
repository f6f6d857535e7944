//! What a fleet looks like in each format.

use super::*;
use crate::output::{Format, Printer};

fn device() -> v1::Device {
    v1::Device {
        id: "0190a000-0000-7000-8000-000000000001".into(),
        name: "edge-1".into(),
        labels: [
            ("site".to_owned(), "berlin".to_owned()),
            ("a".to_owned(), "b".to_owned()),
        ]
        .into(),
        status: v1::DeviceStatus::Online.into(),
        last_seen: Some(prost_types::Timestamp {
            seconds: 1_000,
            nanos: 0,
        }),
        agent_version: "0.1.0".into(),
        releases: vec![v1::ActiveRelease {
            name: "hello".into(),
            version: "1.0".into(),
            digest: "ab".repeat(32),
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn view() -> DeviceView {
    device().into()
}

#[test]
fn a_table_has_no_lines_and_no_trailing_spaces() {
    let other = v1::Device {
        name: "x".into(),
        status: v1::DeviceStatus::Offline.into(),
        last_seen: None,
        releases: vec![],
        labels: BTreeMap::new(),
        ..device()
    };
    let text = Printer::plain(Format::Table)
        .render_list(&[view(), other.into()], Time::at(1_180))
        .unwrap();
    insta::assert_snapshot!(text, @r"
    NAME    STATUS   LAST SEEN  RUNS       LABELS
    edge-1  online   3m ago     hello:1.0  a=b,site=berlin
    x       offline  never      -          -
    ");
}

#[test]
fn a_fleet_is_counted() {
    let drifted = v1::Device {
        status: v1::DeviceStatus::Offline.into(),
        drifts: vec![v1::Drift::default()],
        ..device()
    };
    assert_eq!(fleet(&[view()]), "1 device: 1 online");
    assert_eq!(
        fleet(&[view(), drifted.into()]),
        "2 devices: 1 online, 1 offline, 1 drifted"
    );
}

#[test]
fn a_device_that_drifts_shows_what_it_runs() {
    let drift = |name: &str, actual: &str, expected: &str| v1::Drift {
        name: name.into(),
        actual_version: actual.into(),
        expected_version: expected.into(),
        ..Default::default()
    };
    let drifting = |drifts: Vec<v1::Drift>| DeviceView::from(v1::Device { drifts, ..device() });
    let drifted = drifting(vec![drift("hello", "0.9", "1.0"), drift("extra", "7", "")]);
    assert_eq!(
        drifted.runs(),
        "hello:0.9 (not 1.0), extra:7 (not expected)"
    );
    let titles = |device: &DeviceView| -> Vec<&'static str> {
        let lines = device.details(false, Time::at(0)).into_iter();
        lines.map(|(title, _)| title).collect()
    };
    assert!(titles(&drifted).contains(&"Expected") && !titles(&drifted).contains(&"Runs"));
    let nothing = drifting(vec![drift("hello", "", "1.0")]);
    assert_eq!(nothing.runs(), "hello:none (not 1.0)");
    assert!(titles(&view()).contains(&"Runs"));
}

#[test]
fn json_has_stable_names_and_rfc_3339_times() {
    let text = Printer::plain(Format::Json)
        .render_list(&[view()], Time::at(0))
        .unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json[0]["status"], "online");
    assert_eq!(json[0]["last_seen"], "1970-01-01T00:16:40Z");
    assert_eq!(json[0]["labels"]["site"], "berlin");
    assert_eq!(json[0]["releases"][0]["version"], "1.0");
    assert!(json[0]["vital_signs"].is_null());
}

#[test]
fn names_stand_alone() {
    let text = Printer::plain(Format::Name)
        .render_list(&[view()], Time::at(0))
        .unwrap();
    assert_eq!(text, "edge-1\n");
    let empty = Printer::plain(Format::Json)
        .render_list::<DeviceView>(&[], Time::at(0))
        .unwrap();
    assert_eq!(empty, "[]\n");
}

#[test]
fn what_could_not_be_removed_is_named_and_counted() {
    let left = v1::Leftovers {
        count: 3,
        named: vec![v1::Leftover {
            path: "bundles/app/releases/1.0".into(),
            reason: "a file system is mounted at `data`".into(),
        }],
    };
    let device = DeviceView::from(v1::Device {
        leftovers: Some(left),
        ..device()
    });
    let text = Printer::plain(Format::Table)
        .render_one(&device, Time::at(1_180))
        .unwrap();
    let named = "bundles/app/releases/1.0: a file system is mounted at `data`";
    assert!(
        text.contains(named) && text.contains("and 2 more"),
        "{text}"
    );
    let text = Printer::plain(Format::Json)
        .render_one(&device, Time::at(1_180))
        .unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["leftovers"]["count"], 3);
    let path = &json["leftovers"]["named"][0]["path"];
    assert_eq!(path, "bundles/app/releases/1.0");
}

#[test]
fn one_device_is_shown_as_lines() {
    let text = Printer::plain(Format::Table)
        .render_one(&view(), Time::at(1_180))
        .unwrap();
    assert!(text.starts_with("Name:"), "{text}");
    assert!(text.contains("hello:1.0 (abababababab)"), "{text}");
}
