//! Watches: a snapshot, then changes, resumed with a cursor after a cut.

use kernex_integration_tests::{Ctl, Database, TestServer, both_databases, wait::next_message};
use kernex_proto::v1::{
    DeleteDeviceRequest, Device, DeviceStatus, UpdateDeviceLabelsRequest, WatchDevicesRequest,
    WatchDevicesResponse, WatchEventsRequest,
};
use serde_json::Value;
use tonic::{Code, Streaming};

async fn next<T>(stream: &mut Streaming<T>) -> T {
    let next = next_message(stream).await.unwrap();
    next.expect("the stream goes on")
}

async fn until(
    stream: &mut Streaming<WatchDevicesResponse>,
    holds: impl Fn(&WatchDevicesResponse) -> bool,
) -> WatchDevicesResponse {
    loop {
        let message = next(stream).await;
        if holds(&message) {
            return message;
        }
    }
}

both_databases![
    a_watch_begins_with_a_snapshot_and_resumes_after_a_cut,
    a_watch_drops_devices_that_stop_matching_and_replaces_old_cursors,
    a_watch_shows_drift_and_copies,
    events_are_followed_from_a_cursor_and_an_invalid_cursor_is_refused,
    a_watch_by_kernexctl_survives_a_restart_of_the_server,
];

async fn a_watch_begins_with_a_snapshot_and_resumes_after_a_cut(database: Database) {
    let mut server = TestServer::start(database).await;
    let operator = server.operator();
    let mut agent = server.agent("edge-1").await;
    let request = WatchDevicesRequest::default();
    let mut watch = operator
        .devices()
        .watch_devices(request)
        .await
        .unwrap()
        .into_inner();
    let first = next(&mut watch).await;
    assert!(first.snapshot && first.cursor > 0, "{first:?}");
    assert_eq!(
        first
            .devices
            .iter()
            .map(|device| device.name.as_str())
            .collect::<Vec<_>>(),
        ["edge-1"]
    );
    agent.stop();
    let offline = until(&mut watch, |message| {
        message
            .devices
            .iter()
            .any(|device| device.status() == DeviceStatus::Offline)
    })
    .await;
    assert!(!offline.snapshot);
    let id = offline.devices[0].id.clone();
    server.kill();
    server.start_again().await;
    let operator = server.operator();
    let label = UpdateDeviceLabelsRequest {
        device: "edge-1".into(),
        set: [("site".to_owned(), "berlin".to_owned())].into(),
        ..Default::default()
    };
    operator
        .devices()
        .update_device_labels(label)
        .await
        .unwrap();
    let request = WatchDevicesRequest {
        after: offline.cursor,
        ..Default::default()
    };
    let mut watch = operator
        .devices()
        .watch_devices(request)
        .await
        .unwrap()
        .into_inner();
    let missed = until(&mut watch, |message| {
        message
            .devices
            .iter()
            .any(|device| device.labels.contains_key("site"))
    })
    .await;
    assert!(!missed.snapshot, "what changed, and not everything");
    operator
        .devices()
        .delete_device(DeleteDeviceRequest {
            device: "edge-1".into(),
            ..Default::default()
        })
        .await
        .unwrap();
    let gone = until(&mut watch, |message| !message.removed.is_empty()).await;
    assert_eq!(gone.removed, [id]);
}

async fn a_watch_drops_devices_that_stop_matching_and_replaces_old_cursors(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let _device = server.raw_device("edge-1").await;
    let label = |site: &str| UpdateDeviceLabelsRequest {
        device: "edge-1".into(),
        set: [("site".to_owned(), site.to_owned())].into(),
        ..Default::default()
    };
    operator
        .devices()
        .update_device_labels(label("berlin"))
        .await
        .unwrap();
    let request = WatchDevicesRequest {
        selector: "site=berlin".into(),
        after: 0,
        ..Default::default()
    };
    let mut watch = operator
        .devices()
        .watch_devices(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(next(&mut watch).await.devices.len(), 1);
    operator
        .devices()
        .update_device_labels(label("paris"))
        .await
        .unwrap();
    let left = until(&mut watch, |message| !message.removed.is_empty()).await;
    assert!(left.devices.is_empty(), "{left:?}");
    let request = WatchDevicesRequest {
        selector: String::new(),
        after: u64::MAX >> 1,
        ..Default::default()
    };
    let mut watch = operator
        .devices()
        .watch_devices(request)
        .await
        .unwrap()
        .into_inner();
    assert!(
        next(&mut watch).await.snapshot,
        "a cursor of another history"
    );
    let request = WatchDevicesRequest {
        selector: "a in (".into(),
        after: 0,
        ..Default::default()
    };
    let refused = operator.devices().watch_devices(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

async fn a_watch_shows_drift_and_copies(database: Database) {
    let server = TestServer::start(database).await;
    let (ctl, operator) = (Ctl::on(&server), server.operator());
    let agent = server.agent("edge-1").await;
    let mut device = server.raw_device("edge-2").await;
    let mut copy = device.clone();
    device.connect(&server).await.heartbeat(1).await;
    device.connect(&server).await.heartbeat(1).await;
    let bundle = operator.push_script("app", "1.0", "true").await;
    operator.deploy_and_finish(&bundle, "edge-1").await;
    let mut watch = operator
        .devices()
        .watch_devices(WatchDevicesRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert!(next(&mut watch).await.snapshot);
    let devices = ctl.lines(&["device", "list", "--watch", "-o", "json"]);
    let events = ctl.lines(&[
        "event", "watch", "--after", "0", "--kind", "device", "-o", "json",
    ]);

    std::fs::remove_file(agent.state.join("bundles/app/current")).unwrap();
    let drifted = until(&mut watch, |message| {
        message
            .devices
            .iter()
            .any(|device| !device.drifts.is_empty())
    })
    .await;
    let drift = &drifted.devices[0].drifts[0];
    assert_eq!(
        (
            drift.name.as_str(),
            drift.expected_version.as_str(),
            drift.actual_version.as_str()
        ),
        ("app", "1.0", "")
    );
    assert!(!drifted.snapshot && drift.since.is_some(), "{drifted:?}");
    let line: Value = serde_json::from_str(&devices.about(r#""drifts":[{"#).await).unwrap();
    assert_eq!(
        (&line["change"], &line["device"]["name"]),
        (&"device".into(), &"edge-1".into()),
        "{line}"
    );
    let line: Value = serde_json::from_str(&events.about("device.drifted").await).unwrap();
    assert_eq!(
        (&line["detail"]["name"], &line["detail"]["expected"]),
        (&"edge-1".into(), &"1.0".into()),
        "{line}"
    );

    // The copy left before the sessions above: its epoch is older than one that was confirmed.
    let mut session = copy.connect(&server).await;
    session.heartbeat(1).await;
    let conflicted = until(&mut watch, |message| {
        message
            .devices
            .iter()
            .any(|device| device.status() == DeviceStatus::Conflicted)
    })
    .await;
    assert_eq!(conflicted.devices[0].name, "edge-2");
    let line: Value =
        serde_json::from_str(&devices.about(r#""status":"conflicted""#).await).unwrap();
    assert_eq!(line["device"]["name"], "edge-2", "{line}");
    let line: Value = serde_json::from_str(&events.about("device.conflicted").await).unwrap();
    assert_eq!(line["detail"]["name"], "edge-2", "{line}");

    operator.deploy_and_finish(&bundle, "edge-1").await;
    let settled = until(&mut watch, |message| {
        message
            .devices
            .iter()
            .any(|device| device.name == "edge-1" && device.drifts.is_empty())
    })
    .await;
    assert!(!settled.snapshot);
    events.about("device.settled").await;
    let _ = ctl.ok(&["device", "resolve", "edge-2", "--yes"]);
    events.about("device.resolved").await;
    let free =
        |device: &Device| device.name == "edge-2" && device.status() != DeviceStatus::Conflicted;
    until(&mut watch, |message| message.devices.iter().any(free)).await;
}

async fn events_are_followed_from_a_cursor_and_an_invalid_cursor_is_refused(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let now = WatchEventsRequest {
        from_now: true,
        ..Default::default()
    };
    let mut watch = operator
        .events()
        .watch_events(now)
        .await
        .unwrap()
        .into_inner();
    let first = next(&mut watch).await;
    assert!(first.event.is_none(), "{first:?}");
    let _agent = server.agent("edge-1").await;
    let mut cursor = first.cursor;
    let mut kinds = Vec::new();
    while !kinds.contains(&"device.online".to_owned()) {
        let event = next(&mut watch).await.event.unwrap();
        assert_eq!(event.cursor, cursor + 1, "no gap");
        cursor = event.cursor;
        kinds.push(event.kind);
    }
    assert!(kinds.contains(&"device.enrolled".to_owned()), "{kinds:?}");
    let again = WatchEventsRequest {
        after: first.cursor,
        ..Default::default()
    };
    let mut watch = operator
        .events()
        .watch_events(again)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(next(&mut watch).await.cursor, first.cursor + 1);
    let never = WatchEventsRequest {
        after: 1 << 40,
        ..Default::default()
    };
    let refused = operator.events().watch_events(never).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused:?}");
}

async fn a_watch_by_kernexctl_survives_a_restart_of_the_server(database: Database) {
    let mut server = TestServer::start(database).await;
    let mut agent = server.agent("edge-1").await;
    let gate = server.scratch().join("gate");
    let script = format!("until test -e {}; do sleep 0.1; done", gate.display());
    let bundle = server.operator().push_script("app", "1.0", &script).await;
    let id = server.operator().deploy(&bundle, &["edge-1"]).await;
    let (events, devices, deployment) = {
        let ctl = Ctl::on(&server);
        (
            ctl.lines(&[
                "event", "watch", "--after", "0", "--kind", "device", "-o", "json",
            ]),
            ctl.lines(&["device", "list", "--watch", "-o", "json"]),
            ctl.lines(&["deployment", "watch", &id, "-o", "json"]),
        )
    };
    events.about("device.online").await;
    let line: Value = serde_json::from_str(&devices.about(r#""status":"online""#).await).unwrap();
    assert_eq!(
        (line["change"].as_str(), line["device"]["name"].as_str()),
        (Some("device"), Some("edge-1"))
    );
    let line: Value = serde_json::from_str(&deployment.about(r#""step":"script""#).await).unwrap();
    assert_eq!(
        (
            line["change"].as_str(),
            line["target"]["device_name"].as_str()
        ),
        (Some("target"), Some("edge-1"))
    );
    server.kill();
    server.start_again().await;
    std::fs::write(&gate, "").unwrap();
    let line: Value =
        serde_json::from_str(&deployment.about(r#""result":"succeeded""#).await).unwrap();
    assert_eq!(line["change"].as_str(), Some("deployment"));
    assert_eq!(deployment.to_the_end().1, Some(0));
    agent.stop();
    devices.about(r#""status":"offline""#).await;
    events.about("device.offline").await;
}
