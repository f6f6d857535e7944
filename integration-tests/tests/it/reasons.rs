//! Why a device is away, what a target waits for, and who made an event.

use std::time::Duration;

use kernex_integration_tests::{
    AgentOptions, Ctl, Database, Operator, Proxy, ServerOptions, TestServer, both_databases,
    raw_agent::succeeded, wait::LIMIT,
};
use kernex_proto::v1::{
    AttemptState, AwayReason, CreateDeploymentRequest, Device, DeviceStatus, Event,
    PauseDeploymentRequest, Phase, Rollout, Schedule, Target, WaitReason, WatchEventsRequest,
    phase::Size,
};
use rustix::process::Signal;

both_databases![
    a_device_that_is_away_says_since_when_and_why,
    a_device_that_went_silent_is_told_from_one_that_left_and_one_that_was_cut,
    a_device_that_is_refused_says_why,
    a_waiting_target_says_what_it_waits_for,
    an_event_names_its_device_its_maker_and_its_reason,
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
    away(&operator, "cut", AwayReason::Cut).await;
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
    // Reasons from before the power cut are still known.
    away(&server.operator(), "left", AwayReason::Closed).await;
}

async fn a_device_that_went_silent_is_told_from_one_that_left_and_one_that_was_cut(
    database: Database,
) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let cable = Proxy::to(server.port()).await;
    let router = Proxy::to(server.port()).await;
    let mut frozen = server.agent("frozen").await;
    let through = |name, proxy| server.agent_with(AgentOptions::named(name).through(proxy));
    let _unplugged = through("unplugged", &cable).await;
    let _reset = through("reset", &router).await;
    let mut killed = server.agent("killed").await;
    let mut stopped = server.agent("stopped").await;
    for name in ["frozen", "unplugged", "reset", "killed", "stopped"] {
        operator.online(name).await;
    }

    // Its kernel goes on to take bytes, and nobody answers.
    frozen.signal(Signal::STOP);
    // Nothing passes, and nobody says that the connection is over.
    cable.stall();
    router.cut();
    killed.kill();
    stopped.stop();
    away(&operator, "reset", AwayReason::Cut).await;
    away(&operator, "killed", AwayReason::Cut).await;
    away(&operator, "stopped", AwayReason::Closed).await;
    let silent = away(&operator, "frozen", AwayReason::Silent).await;
    assert!(silent.away_since.is_some(), "{silent:?}");
    away(&operator, "unplugged", AwayReason::Silent).await;
    let ctl = Ctl::on(&server);
    let shown = ctl.ok(&["device", "get", "frozen"]);
    assert!(shown.contains("nothing was heard of it"), "{shown}");

    frozen.signal(Signal::CONT);
    cable.heal();
    router.heal();
    for name in ["frozen", "unplugged", "reset"] {
        operator.online(name).await;
    }
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
    // The device tries again and again; the reason is shown once.
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
    // Every event that comes within a moment. The tests wait for their last event before they ask.
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

async fn a_waiting_target_says_what_it_waits_for(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut device = server.raw_device("edge-1").await;
    let mut session = device.connect(&server).await;
    server.raw_device("edge-2").await;
    let app = operator.push_script("app", "1.0", "true").await;
    let newer = operator.push_script("app", "2.0", "true").await;

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
    // The device is busy with another attempt of that name.
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

async fn an_event_names_its_device_its_maker_and_its_reason(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut agent = server.agent("edge-1").await;
    operator.online("edge-1").await;
    operator.label("edge-1", &[("site", "berlin")]).await;
    let bundle = operator.push_script("app", "1.0", "exit 3").await;
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
