//! Drift: devices that run something else than their last outcome said.

use std::{fs, os::unix::fs::symlink};

use kernex_integration_tests::{
    Ctl, Database, TestAgent, TestServer, both_databases, wait::next_message,
};
use kernex_proto::v1::{AttemptState, Device, FailureReason, WatchEventsRequest};
use serde_json::json;

/// Switches `current` to the release of this version behind the agent's back.
fn switch(agent: &TestAgent, version: &str) {
    let releases = agent.releases("app");
    let wanted = releases
        .iter()
        .find(|release| {
            let name = release.file_name().unwrap().to_str().unwrap();
            name.starts_with(&format!("{version}-"))
        })
        .unwrap();
    let link = agent.state.join("bundles/app/current");
    let aside = agent.state.join("bundles/app/by-hand");
    symlink(wanted, &aside).unwrap();
    fs::rename(aside, link).unwrap();
}

both_databases![
    a_release_that_is_switched_by_hand_drifts_until_it_is_switched_back,
    a_deployment_settles_a_device_that_drifted,
    many_deployments_with_frequent_heartbeats_show_no_drift,
    a_release_that_crashes_in_a_loop_does_not_succeed,
];

async fn a_release_that_is_switched_by_hand_drifts_until_it_is_switched_back(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let ctl = Ctl::on(&server);
    let agent = server.agent("edge-1").await;
    let (old, new) = (
        operator.push_script("app", "1.0", "true").await,
        operator.push_script("app", "2.0", "true").await,
    );
    operator.deploy_and_finish(&old, "edge-1").await;
    operator.deploy_and_finish(&new, "edge-1").await;
    // The server compares its releases with a heartbeat or two before anything changes.
    let seen = |device: &Device| device.last_seen.expect("it was seen").seconds;
    let before = seen(&operator.device("edge-1").await);
    operator
        .device_where("edge-1", "to be seen again", |device| {
            seen(device) > before + 2
        })
        .await;
    switch(&agent, "1.0");
    let device = operator
        .device_where("edge-1", "to drift", |device| !device.drifts.is_empty())
        .await;
    let drift = &device.drifts[0];
    assert_eq!(
        (
            drift.name.as_str(),
            drift.expected_version.as_str(),
            drift.actual_version.as_str()
        ),
        ("app", "2.0", "1.0")
    );
    assert_eq!(
        (&drift.expected_digest, &drift.actual_digest),
        (&new.digest, &old.digest)
    );
    assert!(drift.since.is_some());
    let listed = ctl.run(&["device", "list"]);
    assert!(
        listed.stdout.contains("online, drifted"),
        "{}",
        listed.stdout
    );
    assert!(
        listed.stderr.contains("1 device: 1 online, 1 drifted"),
        "{}",
        listed.stderr
    );
    assert!(
        listed.stdout.contains("app:1.0 (not 2.0)"),
        "{}",
        listed.stdout
    );
    let shown = ctl.ok(&["device", "get", "edge-1"]);
    assert!(shown.contains("app runs 1.0 instead of 2.0"), "{shown}");
    switch(&agent, "2.0");
    operator
        .device_where("edge-1", "to settle", |device| device.drifts.is_empty())
        .await;
    let told = operator.event_kinds("device.settled").await;
    assert_eq!(
        told.iter().filter(|kind| *kind == "device.drifted").count(),
        1,
        "{told:?}"
    );
}

async fn a_deployment_settles_a_device_that_drifted(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let agent = server.agent("edge-1").await;
    let old = operator.push_script("app", "1.0", "true").await;
    operator.deploy_and_finish(&old, "edge-1").await;
    fs::remove_file(agent.state.join("bundles/app/current")).unwrap();
    let device = operator
        .device_where("edge-1", "to drift", |device| !device.drifts.is_empty())
        .await;
    assert_eq!(
        (
            device.drifts[0].expected_version.as_str(),
            device.drifts[0].actual_digest.as_str()
        ),
        ("1.0", "")
    );
    operator.deploy_and_finish(&old, "edge-1").await;
    assert!(
        operator.device("edge-1").await.drifts.is_empty(),
        "the outcome has told"
    );
    let told = operator.event_kinds("device.settled").await;
    assert_eq!(
        told.iter().filter(|kind| *kind == "device.drifted").count(),
        1,
        "{told:?}"
    );
}

async fn many_deployments_with_frequent_heartbeats_show_no_drift(database: Database) {
    let options = kernex_integration_tests::ServerOptions::default()
        .env("KERNEX_HEARTBEAT_INTERVAL", "100ms");
    let server = TestServer::start_with(database, options).await;
    let operator = server.operator();
    let _agent = server.agent("edge-1").await;
    let versions = [
        operator.push_script("app", "1.0", "true").await,
        operator.push_script("app", "2.0", "true").await,
    ];
    for round in 0..6 {
        operator
            .deploy_and_finish(&versions[round % 2], "edge-1")
            .await;
    }
    let _ = operator.push_script("other", "1.0", "true").await;
    let told = operator.event_kinds("bundle.uploaded").await;
    assert!(
        !told.iter().any(|kind| kind == "device.drifted"),
        "{told:?}"
    );
    let mut all = operator
        .events()
        .watch_events(WatchEventsRequest::default())
        .await
        .unwrap()
        .into_inner();
    let mut uploads = 0;
    while uploads < 3 {
        let message = next_message(&mut all).await.unwrap().expect("it goes on");
        let kind = message.event.unwrap().kind;
        uploads += usize::from(kind == "bundle.uploaded");
        assert_ne!(kind, "device.drifted");
    }
}

async fn a_release_that_crashes_in_a_loop_does_not_succeed(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let agent = server.agent("edge-1").await;
    let old = operator.push_script("app", "1.0", "true").await;
    operator.deploy_and_finish(&old, "edge-1").await;
    // Each start of the service lives for a moment; a single probe may well find it alive.
    let start = "nohup sh -c 'while :; do touch $KERNEX_STATE_DIR/alive; sleep 1; rm -f $KERNEX_STATE_DIR/alive; sleep 1; done' >/dev/null 2>&1 & echo $! > $KERNEX_STATE_DIR/pid";
    let looping = operator.push_manifest(&json!({
        "name": "app", "version": "2.0",
        "deploy": {"script": start},
        "rollback": {"script": "kill $(cat $KERNEX_STATE_DIR/pid)"},
        "health": {"command": "test -e $KERNEX_STATE_DIR/alive", "interval_seconds": 1, "retries": 0, "hold_seconds": 30},
    })).await;
    let target = operator.deploy_and_finish(&looping, "edge-1").await;
    assert_eq!(
        (target.state(), target.reason()),
        (AttemptState::Failed, FailureReason::HealthCheck),
        "{target:?}"
    );
    assert_eq!(
        (target.active_version.as_str(), &target.active_digest),
        ("1.0", &old.digest)
    );
    assert!(
        agent
            .current_file("app", "manifest.json")
            .unwrap()
            .contains("1.0")
    );
    if let Ok(pid) = fs::read_to_string(agent.state.join("bundles/app/state/pid")) {
        let _ = std::process::Command::new("kill").arg(pid.trim()).status();
    }
}
