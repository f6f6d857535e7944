//! Why a device is away, what a target waits for, what was ordered, what scripts printed, and who
//! made an event.

use std::time::Duration;

use kernex_integration_tests::{
    BundleBuilder, Ctl, Database, Operator, ServerOptions, TestServer, both_databases,
    raw_agent::succeeded, wait::LIMIT,
};
use kernex_proto::v1::{
    AttemptState, AwayReason, CreateDeploymentRequest, Device, DeviceStatus, Event, OutputStream,
    PauseDeploymentRequest, Phase, Rollout, Schedule, Step, Target, WaitReason, WatchEventsRequest,
    phase::Size,
};
use serde_json::json;

both_databases![
    a_device_that_is_away_says_since_when_and_why,
    a_device_that_is_refused_says_why,
    a_target_that_waits_says_for_what,
    an_order_reads_back_whole,
    the_output_of_the_last_run_is_one_command,
    events_name_their_device_their_maker_and_why,
];

async fn away(operator: &Operator, name: &str, reason: AwayReason) -> Device {
    let device = operator
        .device_where(name, &format!("to be away: {reason:?}"), |device| {
            device.away_reason() == reason
        })
        .await;
    assert_eq!(device.status(), DeviceStatus::Offline);
    device
}

async fn a_device_that_is_away_says_since_when_and_why(database: Database) {
    let mut server = TestServer::start(database).await;
    let operator = server.operator();
    let mut left = server.agent("left").await;
    let mut cut = server.agent("cut").await;
    operator.online("left").await;
    let here = operator.online("cut").await;
    assert_eq!(here.away_reason(), AwayReason::Unspecified);
    assert!(here.away_since.is_none(), "{here:?}");
    let mut stays = server.raw_device("stays").await;
    let session = stays.connect(&server).await;
    server.raw_device("new").await;

    let never = away(&operator, "new", AwayReason::NeverConnected).await;
    assert!(never.away_since.is_none(), "{never:?}");
    left.stop();
    let closed = away(&operator, "left", AwayReason::Closed).await;
    assert!(closed.away_since.is_some(), "{closed:?}");
    cut.kill();
    // The kernel closes the connection of a process that was killed.
    let lost = operator.offline("cut").await;
    assert!(
        matches!(lost.away_reason(), AwayReason::Cut | AwayReason::Closed),
        "{lost:?}"
    );
    let ctl = Ctl::on(&server);
    let shown = ctl.ok(&["device", "get", "left"]);
    assert!(
        shown.contains("Away:") && shown.contains("its agent ended the session"),
        "{shown}"
    );
    assert!(ctl.ok(&["device", "list"]).contains("offline: closed"));

    server.stop();
    drop(session);
    server.start_again().await;
    away(&server.operator(), "stays", AwayReason::Drained).await;
    let session = stays.connect(&server).await;
    server.operator().online("stays").await;
    server.kill();
    drop(session);
    server.start_again().await;
    away(&server.operator(), "stays", AwayReason::ServerGone).await;
    // What was known before the power cut still is.
    away(&server.operator(), "left", AwayReason::Closed).await;
}

async fn a_device_that_is_refused_says_why(database: Database) {
    let options = ServerOptions::default().env("KERNEX_MIN_PROTOCOL", "2");
    let server = TestServer::start_with(database, options).await;
    let operator = server.operator();
    let mut old = server.raw_device("old").await;
    old.protocol_revision = 1;
    let refused = old.try_connect(&server).await;
    assert!(refused.is_err(), "it is too old");
    let device = away(&operator, "old", AwayReason::Refused).await;
    assert!(
        device.away_detail.contains("protocol too old"),
        "{device:?}"
    );
    // It tries again and again; that is shown once.
    let refused = old.try_connect(&server).await;
    assert!(refused.is_err(), "it still is");
    let kinds = events(&operator)
        .await
        .into_iter()
        .filter(|event| event.kind == "device.refused");
    assert_eq!(kinds.count(), 1);
    old.protocol_revision = 2;
    let _session = old.connect(&server).await;
    let device = operator.online("old").await;
    assert_eq!(device.away_reason(), AwayReason::Unspecified);
}

/// Every event that is kept.
async fn events(operator: &Operator) -> Vec<Event> {
    let request = WatchEventsRequest::default();
    let answers = operator.events().watch_events(request).await;
    let mut answers = answers.expect("events can be watched").into_inner();
    let mut events = Vec::new();
    // Whatever comes within a moment; the tests wait for their last event before they ask.
    while let Ok(Ok(Some(answer))) =
        tokio::time::timeout(Duration::from_secs(2), answers.message()).await
    {
        events.extend(answer.event);
    }
    events
}

async fn waits(operator: &Operator, id: &str, device: &str) -> (WaitReason, String) {
    let targets: Vec<Target> = operator.targets(id).await;
    let target = targets.iter().find(|target| target.device_name == device);
    let target = target.unwrap_or_else(|| panic!("no {device} in {targets:?}"));
    (target.waits_for(), target.waits_detail.clone())
}

async fn a_target_that_waits_says_for_what(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut device = server.raw_device("edge-1").await;
    let mut session = device.connect(&server).await;
    server.raw_device("edge-2").await;
    let app = operator
        .push(&BundleBuilder::script("app", "1.0", "true").gzip().await)
        .await;
    let newer = operator
        .push(&BundleBuilder::script("app", "2.0", "true").gzip().await)
        .await;

    let both = operator.deploy(&app, &["edge-1", "edge-2"]).await;
    assert_eq!(
        waits(&operator, &both, "edge-2").await,
        (WaitReason::Device, "never_connected".into())
    );
    let (command, deploy) = session.deploy_command().await;
    assert_eq!(
        waits(&operator, &both, "edge-1").await.0,
        WaitReason::Answer
    );
    session.accept(&command, 1).await;
    assert_eq!(
        waits(&operator, &both, "edge-1").await.0,
        WaitReason::Unspecified
    );
    // The device works on something else of that name.
    let next = operator.deploy(&newer, &["edge-1"]).await;
    assert_eq!(
        waits(&operator, &next, "edge-1").await,
        (WaitReason::Deployment, both.clone())
    );
    session.outcome(&command, 2, succeeded(&deploy)).await;

    let ordered = operator.deployment(&both).await.created_at;
    let mut start = ordered.expect("when it was made");
    start.seconds += 3600;
    let scheduled = CreateDeploymentRequest {
        bundle: app.digest.clone(),
        device_names: vec!["edge-1".into()],
        schedule: Some(Schedule {
            start_at: Some(start),
            ..Default::default()
        }),
        ..Default::default()
    };
    let scheduled = operator.deploy_for(scheduled).await.expect("it is taken");
    assert_eq!(
        waits(&operator, &scheduled, "edge-1").await.0,
        WaitReason::Start
    );

    let ctl = Ctl::on(&server);
    let shown = ctl.ok(&["deployment", "get", &both]);
    assert!(
        shown.contains("its device is away: never connected"),
        "{shown}"
    );
    let shown = ctl.json(&["deployment", "get", &scheduled]);
    assert_eq!(shown["targets"][0]["waits_for"], "start");

    // A newer order of that name replaces what waits.
    let one = |size| Phase {
        size: Some(size),
        ..Default::default()
    };
    let phased = CreateDeploymentRequest {
        bundle: newer.digest.clone(),
        device_names: vec!["edge-1".into(), "edge-2".into()],
        rollout: Some(Rollout {
            phases: vec![one(Size::Count(1)), one(Size::Percent(100.0))],
            ..Default::default()
        }),
        ..Default::default()
    };
    let phased = operator.deploy_for(phased).await.expect("it is taken");
    let reasons = async || {
        [
            waits(&operator, &phased, "edge-1").await.0,
            waits(&operator, &phased, "edge-2").await.0,
        ]
    };
    let found = reasons().await;
    assert!(found.contains(&WaitReason::Phase), "{found:?}");
    let pause = PauseDeploymentRequest {
        deployment_id: phased.clone(),
        reason: "lunch".into(),
        ..Default::default()
    };
    operator
        .rollouts()
        .pause_deployment(pause)
        .await
        .expect("it is paused");
    let held = operator.targets(&phased).await;
    let held = held
        .iter()
        .find(|target| target.state() == AttemptState::Held);
    let held = held.expect("a held target");
    assert_eq!(
        (held.waits_for(), held.waits_detail.as_str()),
        (WaitReason::Paused, "lunch")
    );
}

async fn an_order_reads_back_whole(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    for name in ["edge-1", "edge-2", "edge-3"] {
        server.raw_device(name).await;
        operator
            .label(name, &[("site", "berlin"), ("rack", name)])
            .await;
    }
    server.raw_device("other").await;
    operator
        .push(&BundleBuilder::script("app", "1.0", "true").gzip().await)
        .await;
    let ctl = Ctl::on(&server);
    let made = ctl.json(&[
        "deploy",
        "app:1.0",
        "--to",
        "site=berlin",
        "--device",
        "other",
        "--message",
        "the fix for 17",
        "--phases",
        "1,100%",
        "--soak",
        "10m",
        "--max-failures",
        "1",
        "--on-failure",
        "rollback",
        "--approve",
        "--max-in-flight",
        "5",
        "--budget",
        "rack=2",
        "--window",
        "daily 02:00-04:00 UTC",
        "--delivery-timeout",
        "2d",
        "--execution-timeout",
        "30m",
    ]);
    let id = made[0]["id"].as_str().expect("an id").to_owned();
    let shown = ctl.json(&["deployment", "get", &id]);
    let tokens = ctl.json(&["token", "list"]);
    let ordered = json!({
        "selector": "site=berlin",
        "named_devices": 1,
        "message": "the fix for 17",
        "created_from": "127.0.0.1",
        "token_id": tokens[0]["id"],
        "delivery_timeout_seconds": 172_800,
        "execution_timeout_seconds": 1_800,
    });
    for (field, value) in ordered.as_object().expect("fields") {
        assert_eq!(&shown[field], value, "{field}: {shown}");
    }
    let rollout = &shown["rollout"];
    assert_eq!(rollout["max_in_flight"], 5, "{rollout}");
    assert_eq!(rollout["budgets"], json!([{"label": "rack", "max": 2}]));
    assert_eq!(rollout["approval"], true, "{rollout}");
    assert_eq!(rollout["on_failure"], "rollback", "{rollout}");
    assert_eq!(rollout["phases"][0]["count"], 1, "{rollout}");
    assert_eq!(rollout["phases"][1]["percent"], 100.0, "{rollout}");
    assert_eq!(shown["created_by"], "admin");
    assert_eq!(shown["phases"][0]["soak_seconds"], 600);
    assert_eq!(shown["phases"][0]["max_failures"], "1");
    assert_eq!(shown["schedule"]["windows"][0], "daily 02:00-04:00 UTC");
    let text = ctl.ok(&["deployment", "get", &id]);
    for part in [
        "devices that match site=berlin, and 1 device by name",
        "the fix for 17",
        "by admin from 127.0.0.1",
        "2d to reach a device, 30m once it has begun",
        "2 of the same rack",
        "return what was deployed",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    let long = "x".repeat(1001);
    let refused = ctl.run(&["deploy", "app:1.0", "--device", "other", "--message", &long]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
}

async fn the_output_of_the_last_run_is_one_command(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let _agent = server.agent("edge-1").await;
    let manifest = json!({
        "name": "app", "version": "1.0",
        "hooks": { "pre": "echo ready" },
        "deploy": { "script": "echo one; sleep 0.2; echo oops >&2; sleep 0.2; echo two" },
    });
    let archive = BundleBuilder::with_manifest(&manifest).gzip().await;
    let bundle = operator.push(&archive).await;
    let target = operator.deploy_and_finish(&bundle, "edge-1").await;
    assert_eq!(target.state(), AttemptState::Succeeded);
    let marks: Vec<(Step, OutputStream)> = target
        .output_marks
        .iter()
        .map(|mark| (mark.step(), mark.stream()))
        .collect();
    assert_eq!(
        marks,
        [
            (Step::PreHook, OutputStream::Stdout),
            (Step::Script, OutputStream::Stdout),
            (Step::Script, OutputStream::Stderr),
            (Step::Script, OutputStream::Stdout),
        ]
    );
    let ctl = Ctl::on(&server);
    let text = ctl.ok(&["output", "edge-1"]);
    let expected = "--- hooks.pre\n| ready\n--- deploy.script\n| one\n! oops\n| two\n";
    assert!(text.ends_with(expected), "{text}");
    assert_eq!(
        ctl.ok(&["output", "edge-1", "--raw"]),
        "ready\none\noops\ntwo\n"
    );
    let json = ctl.json(&["output", "--deployment", &target.deployment_id]);
    assert_eq!(json[0]["device_name"], "edge-1");
    assert_eq!(json[0]["output"][2]["stream"], "stderr");
    assert_eq!(json[0]["output"][2]["text"], "oops\n");

    // A failure goes back, and that is a step of its own.
    let manifest = json!({
        "name": "app", "version": "2.0",
        "deploy": { "script": "echo broken; exit 7" },
    });
    let archive = BundleBuilder::with_manifest(&manifest).gzip().await;
    let bundle = operator.push(&archive).await;
    let target = operator.deploy_and_finish(&bundle, "edge-1").await;
    assert_eq!(target.state(), AttemptState::Failed);
    let text = ctl.ok(&["output", "edge-1"]);
    assert!(
        text.contains("--- deploy.script\n| broken\n--- going back\n"),
        "{text}"
    );
    let nobody = ctl.run(&["output", "nobody"]);
    assert_eq!(nobody.code, Some(5), "{}", nobody.stderr);
}

async fn events_name_their_device_their_maker_and_why(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut agent = server.agent("edge-1").await;
    operator.online("edge-1").await;
    operator.label("edge-1", &[("site", "berlin")]).await;
    let bundle = operator
        .push(&BundleBuilder::script("app", "1.0", "exit 3").gzip().await)
        .await;
    operator.deploy_and_finish(&bundle, "edge-1").await;
    agent.stop();
    away(&operator, "edge-1", AwayReason::Closed).await;
    let events = tokio::time::timeout(LIMIT, events(&operator)).await;
    let events = events.expect("events come");
    let first = |kind: &str| {
        let found = events.iter().find(|event| event.kind == kind);
        found.unwrap_or_else(|| panic!("no {kind} in {events:#?}"))
    };
    for kind in ["device.labelled", "bundle.uploaded", "deployment.created"] {
        assert_eq!(first(kind).by, "admin", "{kind}");
    }
    assert!(first("device.enrolled").by.starts_with("token "));
    assert_eq!(first("bundle.uploaded").bundle, "app:1.0");
    assert_eq!(first("deployment.created").bundle, "app:1.0");
    let failed = first("attempt.failed");
    assert_eq!(
        (
            failed.device_name.as_str(),
            failed.bundle.as_str(),
            failed.reason.as_str()
        ),
        ("edge-1", "app:1.0", "script_failed")
    );
    let finished = first("deployment.finished");
    assert_eq!(
        (finished.by.as_str(), finished.bundle.as_str()),
        ("kernex", "app:1.0")
    );
    let offline = first("device.offline");
    assert_eq!(
        (offline.device_name.as_str(), offline.reason.as_str()),
        ("edge-1", "closed")
    );
}
