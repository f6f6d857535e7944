//! How a device proves its identity: the signature covers all of Hello and this one connection, and
//! neither side goes back to an older proof.

use kernex_integration_tests::{
    Ctl, Database, RawSession, ServerOptions, TestAgent, TestServer, both_databases,
    fake_server::FakeServer,
    interceptor::Interceptor,
    raw_agent::{Opening, RawIdentity},
    refusal::reason,
    wait::{seen, wait_for},
};
use kernex_proto::{
    connect::ControlPlane,
    error::Reason,
    ids::{DeviceId, JournalId},
    trust::{Dates, PinnedCa},
    v1::{
        AttemptRef, AttemptState, DeviceStatus, HeldAttempt, Hello, Inventory, Ready,
        device_session_request as up,
    },
};
use tonic::Code;

/// A field and a change to it.
type Change = (&'static str, fn(&mut Hello));

async fn opening(server: &TestServer) -> Opening {
    Opening::new(server)
        .await
        .expect("the server says Challenge")
}

/// Connects through a TLS interceptor that has the CA's key.
async fn opening_through(server: &TestServer, between: &Interceptor) -> Opening {
    let ca = std::fs::read_to_string(server.data().join("ca.pem")).expect("a CA");
    let trust = PinnedCa::from_pem(&ca, Dates::Count);
    let limit = std::time::Duration::from_secs(60);
    let remote = ControlPlane::new(&between.url(), trust, limit).expect("a good address");
    let connection = remote.dial().await.expect("the CA vouches for it");
    let binding = connection.binding;
    let channel = connection
        .into_channel(&remote.endpoint())
        .await
        .expect("HTTP/2");
    Opening::over((channel, binding))
        .await
        .expect("Challenge comes through")
}

/// Completes a session that was welcomed.
async fn ready(session: &mut RawSession, device: &mut RawIdentity) {
    let epoch = session.welcome.epoch;
    session.send(up::Message::Ready(Ready { epoch })).await;
    session.heartbeat(1).await;
    device.last_epoch = epoch;
}

both_databases![
    no_field_of_hello_can_be_changed_on_its_way,
    a_proof_is_good_on_its_own_connection_only,
    a_tls_interceptor_gets_no_session,
    an_agent_refuses_to_be_relayed,
    an_old_agent_gets_in_unless_the_server_requires_a_newer_protocol,
    a_device_cannot_go_back_to_an_older_proof_unless_an_operator_allows_it,
    a_made_up_epoch_is_a_conflict_and_locks_nobody_out,
    without_tls_the_proof_works_on_loopback,
];

async fn no_field_of_hello_can_be_changed_on_its_way(database: Database) {
    let server = TestServer::start(database).await;
    let mut device = server.raw_device("edge-1").await;
    let before = server.operator().device("edge-1").await;
    let changes: [Change; 11] = [
        ("device_id", |hello| {
            hello.device_id = DeviceId::generate().to_string()
        }),
        ("client_nonce", |hello| {
            hello.client_nonce = vec![0; 32].into()
        }),
        ("boot_id", |hello| hello.boot_id.push('x')),
        ("journal_id", |hello| {
            hello.journal_id = JournalId::generate().to_string()
        }),
        ("last_epoch", |hello| hello.last_epoch = 1 << 40),
        ("protocol_revision", |hello| hello.protocol_revision = 3),
        ("capabilities", |hello| {
            hello.capabilities.push("none".into())
        }),
        ("agent_version", |hello| hello.agent_version.push('x')),
        ("inventory", |hello| {
            hello.inventory = Some(Inventory::default())
        }),
        ("acknowledged_seq", |hello| hello.acknowledged_seq = Some(9)),
        ("held_attempts", |hello| {
            hello.held_attempts.push(HeldAttempt {
                attempt: Some(AttemptRef {
                    target_id: DeviceId::generate().to_string(),
                    attempt: 1,
                }),
                state: AttemptState::Running.into(),
            })
        }),
    ];
    for (field, change) in changes {
        let opening = opening(&server).await;
        let mut hello = opening.hello(&device);
        change(&mut hello);
        let refused = opening.say(hello).await.expect_err(field);
        assert_eq!(refused.code(), Code::Unauthenticated, "{field}: {refused}");
    }
    let opening = opening(&server).await;
    let mut beside = opening.sealed(opening.hello(&device));
    beside.last_epoch = 1 << 40;
    let refused = opening
        .say_first(up::Message::Hello(beside))
        .await
        .expect_err("two Hellos in one");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert_eq!(
        server.operator().device("edge-1").await,
        before,
        "nothing changed"
    );
    device.connect(&server).await.heartbeat(1).await;
    assert_eq!(
        server.operator().device("edge-1").await.protocol_revision,
        2
    );
}

async fn a_proof_is_good_on_its_own_connection_only(database: Database) {
    let server = TestServer::start(database).await;
    let mut device = server.raw_device("edge-1").await;
    // A relay sends the nonce of one connection to an agent on another one.
    let theirs = opening(&server).await;
    let mut honest = opening(&server).await;
    honest.challenge = theirs.challenge.clone();
    let hello = honest.hello(&device);
    let refused = theirs.say(hello).await.expect_err("another connection");
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    device.connect(&server).await.heartbeat(1).await;
}

async fn a_tls_interceptor_gets_no_session(database: Database) {
    let server = TestServer::start(database).await;
    let between = Interceptor::before(&server).await;
    let mut device = server.raw_device("edge-1").await;
    let through = opening_through(&server, &between).await;
    let hello = through.hello(&device);
    let refused = through.say(hello).await.expect_err("another connection");
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    // The interceptor passes messages on: an agent of revision 1 does not notice it.
    let mut old = RawIdentity {
        protocol_revision: 1,
        ..device.clone()
    };
    let through = opening_through(&server, &between).await;
    let hello = through.hello(&old);
    let mut session = through
        .say(hello)
        .await
        .expect("the first revision knows no connections");
    ready(&mut session, &mut old).await;
    drop(session);
    device.last_epoch = old.last_epoch;
    device.connect(&server).await.heartbeat(1).await;
    // From now on the interceptor removes the revision from the challenge in vain.
    old.last_epoch = server.operator().device("edge-1").await.epoch;
    let through = opening_through(&server, &between).await;
    let hello = through.hello(&old);
    let refused = through.say(hello).await.expect_err("less than before");
    assert_eq!(
        reason(&refused),
        Some(Reason::ProtocolDowngraded),
        "{refused}"
    );
}

async fn an_agent_refuses_to_be_relayed(database: Database) {
    let server = TestServer::start(database).await;
    let between = Interceptor::before(&server).await;
    let mut agent = server.agent("edge-1").await;
    server.operator().online("edge-1").await;
    agent.stop();
    let before = server.operator().device("edge-1").await;
    agent.start_again_saying(&["--server", &between.url()]);
    wait_for("the agent to be refused", || {
        let refused = agent
            .process()
            .log()
            .contains("the server refused: Unauthenticated");
        let log = agent.process().tail();
        async move { seen(refused, log) }
    })
    .await;
    assert!(between.passed() > 0, "its TLS was ended in between");
    assert_eq!(
        server.operator().device("edge-1").await.epoch,
        before.epoch,
        "no session"
    );
    agent.stop();
    agent.start_again();
    server
        .operator()
        .device_where("edge-1", "to be back", |device| {
            device.status() == DeviceStatus::Online && device.epoch > before.epoch
        })
        .await;
}

async fn an_old_agent_gets_in_unless_the_server_requires_a_newer_protocol(database: Database) {
    let server = TestServer::start(database).await;
    let mut old = server.raw_device("edge-1").await;
    old.protocol_revision = 1;
    old.connect(&server).await.heartbeat(1).await;
    assert_eq!(
        server.operator().device("edge-1").await.protocol_revision,
        1
    );

    let options = ServerOptions::default().env("KERNEX_MIN_PROTOCOL", "2");
    let strict = TestServer::start_with(database, options).await;
    let mut old = strict.raw_device("edge-1").await;
    old.protocol_revision = 1;
    let refused = old.try_connect(&strict).await.expect_err("too old");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert_eq!(reason(&refused), Some(Reason::ProtocolTooOld));
    assert!(refused.message().contains("update the agent"), "{refused}");
    let log = strict.process().log();
    assert!(
        log.contains("protocol too old") && log.contains("--min-protocol"),
        "{log}"
    );
    // Without the key, nothing is revealed.
    let mut stranger = old.clone();
    stranger.key = strict.raw_device("edge-2").await.key;
    let refused = stranger
        .try_connect(&strict)
        .await
        .expect_err("another key");
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    old.protocol_revision = 2;
    old.connect(&strict).await.heartbeat(1).await;
}

async fn a_device_cannot_go_back_to_an_older_proof_unless_an_operator_allows_it(
    database: Database,
) {
    let server = TestServer::start(database).await;
    let mut device = server.raw_device("edge-1").await;
    device.connect(&server).await.heartbeat(1).await;
    let mut old = RawIdentity {
        protocol_revision: 1,
        ..device.clone()
    };
    let refused = old
        .try_connect(&server)
        .await
        .expect_err("less than before");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert_eq!(reason(&refused), Some(Reason::ProtocolDowngraded));
    assert!(refused.message().contains("--allow-downgrade"), "{refused}");
    // An agent that says it can do better was made to believe that the server cannot.
    let opening = opening(&server).await;
    let mut hello = opening.hello(&old);
    hello.protocol_revision = 2;
    let refused = opening
        .say_first(up::Message::Hello(hello))
        .await
        .expect_err("made to");
    assert_eq!(reason(&refused), Some(Reason::ProtocolDowngraded));

    let ctl = Ctl::on(&server);
    let allowed = ctl.json(&["device", "resolve", "edge-1", "--allow-downgrade", "--yes"]);
    assert_eq!(allowed["protocol_revision"], 0);
    old.connect(&server).await.heartbeat(1).await;
    device.last_epoch = old.last_epoch;
    device.connect(&server).await.heartbeat(1).await;
    let shown = ctl.ok(&["device", "get", "edge-1"]);
    assert!(shown.contains("protocol revision 2"), "{shown}");
    old.last_epoch = device.last_epoch;
    let refused = old
        .try_connect(&server)
        .await
        .expect_err("it was allowed once");
    assert_eq!(reason(&refused), Some(Reason::ProtocolDowngraded));
}

async fn a_made_up_epoch_is_a_conflict_and_locks_nobody_out(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut device = server.raw_device("edge-1").await;
    let session = device.connect(&server).await;
    operator.online("edge-1").await;
    let given = operator.device("edge-1").await.epoch;
    let mut thief = RawIdentity {
        last_epoch: u64::MAX >> 1,
        ..device.clone()
    };
    let refused = thief.try_connect(&server).await.expect_err("never given");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert_eq!(reason(&refused), Some(Reason::EpochNotIssued));
    let doubted = operator
        .device_where("edge-1", "to be conflicted", |device| {
            device.status() == DeviceStatus::Conflicted
        })
        .await;
    assert_eq!(doubted.epoch, given, "the number stays");
    let ctl = Ctl::on(&server);
    let shown = ctl.ok(&["device", "get", "edge-1"]);
    assert!(
        shown.contains("never gave") && shown.contains("device resolve edge-1"),
        "{shown}"
    );
    assert!(server.process().log().contains("made-up session number"));
    let resolved = ctl.run(&["device", "resolve", "edge-1", "--yes"]);
    assert_eq!(resolved.code, Some(0), "{}", resolved.stderr);
    drop(session);
    let mut session = device.connect(&server).await;
    session.heartbeat(1).await;
    assert_eq!(
        operator.device("edge-1").await.status(),
        DeviceStatus::Online
    );
}

async fn without_tls_the_proof_works_on_loopback(database: Database) {
    let server = TestServer::start_with(database, ServerOptions::default().plaintext()).await;
    let mut device = server.raw_device("edge-1").await;
    device.connect(&server).await.heartbeat(1).await;
    let _agent = server.agent("edge-2").await;
    assert_eq!(
        server.operator().online("edge-2").await.protocol_revision,
        2
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_accepts_an_old_server_until_it_met_a_newer_one() {
    let folder = tempfile::tempdir().unwrap();
    let server = FakeServer::start().await;
    server.announce(0);
    let mut agent = server.agent(folder.path());
    let file = folder.path().join("agents/edge-1/device.json");
    let spoken = |revision: u64| {
        let file = file.clone();
        wait_for("the agent to write down what it spoke", move || {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            let json: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
            async move { seen(json["protocol_revision"] == revision, text) }
        })
    };
    spoken(1).await;

    server.announce(2);
    agent.stop();
    agent.start_again();
    spoken(2).await;

    refuses(&server, &mut agent).await;
    spoken(2).await;

    // The permission is good once: the next revision is remembered again.
    agent.stop();
    agent.start_again_saying(&["--allow-downgrade"]);
    spoken(1).await;
    agent.stop();
    server.announce(2);
    agent.start_again();
    spoken(2).await;
    refuses(&server, &mut agent).await;
}

/// Makes the server speak the older protocol from now on.
async fn refuses(server: &FakeServer, agent: &mut TestAgent) {
    server.announce(0);
    agent.stop();
    let since = agent.process().said();
    agent.start_again();
    wait_for("the agent to refuse", || {
        let refused = agent.process().has_said("--allow-downgrade", since);
        let log = agent.process().tail();
        async move { seen(refused, log) }
    })
    .await;
}
