//! Sessions: what opens and what ends them.

use std::time::Duration;

use kernex_integration_tests::{
    AgentOptions, Ctl, Database, Proxy, TestServer, both_databases, raw_agent::Opening,
    wait::wait_for_within,
};
use kernex_proto::v1::{
    AttemptRef, CreateDeploymentRequest, DeleteDeviceRequest, DeviceStatus, Outcome, Ready, Report,
    device_session_request as up, device_session_response as down, report,
};
use tonic::Code;

both_databases![
    a_deleted_device_loses_its_session_and_cannot_come_back,
    a_malformed_message_ends_only_its_own_session,
    an_unknown_message_is_answered_and_the_session_stays,
    a_newer_session_ends_the_older,
    two_copies_of_a_device_are_noticed_and_an_operator_decides,
    a_stopping_server_tells_its_sessions_and_ends_in_time,
    agents_come_back_after_a_server_was_killed,
    a_silent_device_is_offline_within_half_a_minute,
];

async fn a_deleted_device_loses_its_session_and_cannot_come_back(database: Database) {
    let server = TestServer::start(database).await;
    let mut device = server.raw_device("edge-1").await;
    let mut session = device.connect(&server).await;
    server.operator().online("edge-1").await;
    let request = DeleteDeviceRequest {
        device: "edge-1".into(),
        ..Default::default()
    };
    server
        .operator()
        .devices()
        .delete_device(request)
        .await
        .unwrap();
    let ended = session.end().await;
    assert_eq!(ended, Code::Unauthenticated);
    let back = device.try_connect(&server).await.unwrap_err();
    assert_eq!(back.code(), Code::Unauthenticated);
    let gone = server.operator().try_device("edge-1").await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
}

async fn a_malformed_message_ends_only_its_own_session(database: Database) {
    let server = TestServer::start(database).await;
    let mut bystander = server.raw_device("bystander").await;
    let mut witness = bystander.connect(&server).await;
    let mut device = server.raw_device("edge-1").await;
    let nonsense = AttemptRef {
        target_id: "nonsense".into(),
        attempt: 1,
    };
    let hello = Opening::new(&server).await.unwrap().hello(&device);
    let bad = [
        ("Hello twice", up::Message::Hello(hello)),
        ("Ready twice", up::Message::Ready(Ready { epoch: 1 })),
        (
            "a report about no attempt",
            up::Message::Report(Report {
                seq: 1,
                event: Some(report::Event::Outcome(Outcome::default())),
                ..Default::default()
            }),
        ),
        (
            "a report about nonsense",
            up::Message::Report(Report {
                attempt: Some(nonsense),
                seq: 1,
                event: Some(report::Event::Outcome(Outcome::default())),
                ..Default::default()
            }),
        ),
    ];
    for (what, message) in bad {
        let mut session = device.connect(&server).await;
        session.heartbeat(1).await;
        session.send(message).await;
        assert_eq!(session.end().await, Code::InvalidArgument, "{what}");
    }
    let mut session = device.connect(&server).await;
    session.send_bytes(&b"\xff\xff\xff\xff"[..]).await;
    assert_eq!(
        session.end().await,
        Code::InvalidArgument,
        "bytes that are no message"
    );
    witness.heartbeat(1).await;
}

async fn an_unknown_message_is_answered_and_the_session_stays(database: Database) {
    let server = TestServer::start(database).await;
    let mut device = server.raw_device("edge-1").await;
    let mut session = device.connect(&server).await;
    // Field 99, a message with one string: something a later version might send.
    session.send_bytes(&b"\x9a\x06\x05\x0a\x03new"[..]).await;
    session
        .next_where(|message| match message {
            down::Message::Unsupported(unsupported) => Some(unsupported),
            _ => None,
        })
        .await;
    session.heartbeat(1).await;
    assert_eq!(
        server.operator().online("edge-1").await.epoch,
        session.welcome.epoch
    );
}

async fn a_newer_session_ends_the_older(database: Database) {
    let server = TestServer::start(database).await;
    let mut device = server.raw_device("edge-1").await;
    let mut older = device.connect(&server).await;
    older.heartbeat(1).await;
    let mut newer = device.connect(&server).await;
    assert!(newer.welcome.epoch > older.welcome.epoch);
    assert_eq!(older.end().await, Code::Aborted);
    newer.heartbeat(1).await;
    assert_eq!(
        server.operator().device("edge-1").await.status(),
        DeviceStatus::Online
    );
}

async fn two_copies_of_a_device_are_noticed_and_an_operator_decides(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut device = server.raw_device("edge-1").await;
    let mut copy = device.clone();
    device.connect(&server).await.heartbeat(1).await;
    device.connect(&server).await.heartbeat(1).await;
    // The copy left before the sessions above: its epoch is older than one that was confirmed.
    let mut session = copy.connect(&server).await;
    session.heartbeat(1).await;
    operator
        .device_where("edge-1", "to be conflicted", |device| {
            device.status() == DeviceStatus::Conflicted
        })
        .await;
    session.heartbeat(2).await;
    let shown = Ctl::on(&server).ok(&["device", "get", "edge-1"]);
    assert!(shown.contains("conflicted"), "{shown}");
    let bundle = operator.push_script("app", "1.0", "true").await;
    let request = CreateDeploymentRequest {
        bundle: bundle.digest,
        device_names: vec!["edge-1".into()],
        ..Default::default()
    };
    operator.deploy_for(request).await.unwrap();
    let resolved = Ctl::on(&server).run(&["device", "resolve", "edge-1", "--yes"]);
    assert_eq!(resolved.code, Some(0), "{}", resolved.stderr);
    // The copy that confirmed last is kept: it opens a session with its list and gets commands
    // again.
    session
        .next_where(|message| matches!(message, down::Message::Drain(_)).then_some(()))
        .await;
    let mut session = copy.connect(&server).await;
    session.deploy_command().await;
    let refused = device.try_connect(&server).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(refused.message().contains("new key"), "{refused}");
    session.heartbeat(1).await;
    assert_eq!(
        operator.device("edge-1").await.status(),
        DeviceStatus::Online
    );
    let again = Ctl::on(&server).run(&["device", "resolve", "edge-1", "--yes"]);
    assert!(
        again.code == Some(5) && again.stderr.contains("not conflicted"),
        "{}",
        again.stderr
    );
}

async fn a_stopping_server_tells_its_sessions_and_ends_in_time(database: Database) {
    let mut server = TestServer::start(database).await;
    let mut device = server.raw_device("edge-1").await;
    let mut session = device.connect(&server).await;
    session.heartbeat(1).await;
    let stop = tokio::task::spawn_blocking(move || server.stop());
    session
        .next_where(|message| match message {
            down::Message::Drain(drain) => Some(drain),
            _ => None,
        })
        .await;
    // The session stays open on our side; the server has to end all the same, and well.
    stop.await
        .expect("the server stops in time with exit code 0");
}

async fn agents_come_back_after_a_server_was_killed(database: Database) {
    let mut server = TestServer::start(database).await;
    let agent = server.agent("edge-1").await;
    let before = server.operator().device("edge-1").await.epoch;
    server.kill();
    server.start_again().await;
    let device = server
        .operator()
        .device_where("edge-1", "to be back", |device| {
            device.status() == DeviceStatus::Online && device.epoch > before
        })
        .await;
    assert_eq!(device.name, agent.name);
}

async fn a_silent_device_is_offline_within_half_a_minute(database: Database) {
    let server = TestServer::start(database).await;
    let proxy = Proxy::to(server.port()).await;
    let _agent = server
        .agent_with(AgentOptions::named("edge-1").through(&proxy))
        .await;
    proxy.stall();
    let operator = server.operator();
    wait_for_within(
        Duration::from_secs(40),
        "the silent device to be offline",
        || async {
            let device = operator.device("edge-1").await;
            kernex_integration_tests::wait::seen(device.status() == DeviceStatus::Offline, device)
        },
    )
    .await;
    proxy.cut();
    proxy.heal();
    operator.online("edge-1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(
    not(kernex_postgres),
    ignore = "no PostgreSQL here: install it (Debian: apt install postgresql) or set KERNEX_TEST_POSTGRES_URL"
)]
async fn a_newer_session_on_another_replica_ends_the_older() {
    let first = TestServer::start(Database::Postgres).await;
    let second = first.replica().await;
    let mut device = first.raw_device("edge-1").await;
    let mut older = device.connect(&first).await;
    older.heartbeat(1).await;
    let mut newer = device.connect(&second).await;
    newer.heartbeat(1).await;
    let ended = tokio::time::timeout(Duration::from_secs(30), older.end()).await;
    assert_eq!(ended.expect("it ends by itself"), Code::Aborted);
    newer.heartbeat(2).await;
    assert_eq!(
        first.operator().device("edge-1").await.status(),
        DeviceStatus::Online
    );
}
