//! Revocation ends everything at once: sessions, streams, uploads, downloads and cached tokens.

use std::{future::Future, time::Duration};

use bytes::Bytes;
use kernex_integration_tests::{
    BundleBuilder, Ctl, Database, Operator, RawIdentity, TestServer,
    agent::bare_command,
    both_databases, bundle,
    raw_agent::{RawSession, succeeded},
    wait::{seen, wait_for},
};
use kernex_proto::{
    error::Reason,
    v1::{
        AttemptState, CreateEnrollmentTokenRequest, CreateOperatorTokenRequest,
        DeleteDeviceRequest, FetchBundleRequest, FetchBundleResponse, Report,
        RevokeOperatorTokenRequest, Role, UploadBegin, WatchDeploymentRequest, WatchDevicesRequest,
        WatchEventsRequest, device_session_request as up, device_session_response as down, report,
    },
};
use tokio::{sync::oneshot, task::JoinSet};
use tokio_stream::StreamExt as _;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;

/// Far more than the second that is promised, far less than it took before.
const SOON: Duration = Duration::from_secs(30);

async fn soon<T>(what: &str, happens: impl Future<Output = T>) -> T {
    let happened = tokio::time::timeout(SOON, happens).await;
    happened.unwrap_or_else(|_| panic!("{what} goes on"))
}

/// Reads to the end; says how it ended, and what was read.
async fn end<T>(mut stream: Streaming<T>) -> (Status, Vec<T>) {
    let mut read = Vec::new();
    loop {
        match stream.message().await {
            Ok(Some(message)) => read.push(message),
            Ok(None) => return (Status::ok("it ended well"), read),
            Err(status) => return (status, read),
        }
    }
}

fn reason(status: &Status) -> Option<Reason> {
    Reason::parse(&status.get_details_error_info()?.reason)
}

/// How a session ends, and whether a command came before that.
async fn session_end(session: &mut RawSession) -> (Status, bool) {
    let mut commanded = false;
    loop {
        match session.next().await {
            Ok(Some(message)) => commanded |= matches!(message, down::Message::Command(_)),
            Ok(None) => panic!("it ended well"),
            Err(status) => return (status, commanded),
        }
    }
}

async fn replace(server: &TestServer, device: &str) -> RawIdentity {
    let request = CreateEnrollmentTokenRequest {
        replaces_device: device.into(),
        ..Default::default()
    };
    let token = server.operator().enrollment_token_for(request).await;
    let new = RawIdentity::enrol(server, &token, server.new_key(), "").await;
    new.expect("the new key takes the device over")
}

/// An operator with a token of its own.
struct TokenHolder {
    operator: Operator,
    token_id: String,
    token: String,
}

async fn token_holder(server: &TestServer, ttl_seconds: u64) -> TokenHolder {
    let request = CreateOperatorTokenRequest {
        name: "eve".into(),
        role: Role::Operator.into(),
        ttl_seconds,
        ..Default::default()
    };
    let made = server
        .operator()
        .access()
        .create_operator_token(request)
        .await;
    let made = made.expect("a token is made").into_inner();
    TokenHolder {
        operator: Operator::new(server.channel().await, &made.text),
        token_id: made.token_id,
        token: made.text,
    }
}

async fn revoke(server: &TestServer, token_id: &str) {
    let request = RevokeOperatorTokenRequest {
        token_id: token_id.to_owned(),
        ..Default::default()
    };
    let revoked = server
        .operator()
        .access()
        .revoke_operator_token(request)
        .await;
    revoked.expect("the token is revoked");
}

/// Open calls of one token, each with a name.
struct Streams {
    read: JoinSet<(&'static str, Status)>,
    /// Not read yet, so that it is not at its end.
    fetch: Streaming<FetchBundleResponse>,
}

impl Streams {
    /// Opens one call of each kind.
    async fn open(server: &TestServer, eve: &TokenHolder, bundle: &str, deployment: &str) -> Self {
        let operator = &eve.operator;
        // On a connection of its own: what is not read holds back whatever else is on it.
        let fetching = Operator::new(server.channel().await, &eve.token);
        let fetch = FetchBundleRequest {
            bundle: bundle.to_owned(),
            offset: 0,
        };
        let fetch = fetching.bundles().fetch_bundle(fetch).await;
        let devices = operator
            .devices()
            .watch_devices(WatchDevicesRequest::default())
            .await;
        let events = WatchEventsRequest {
            from_now: true,
            ..Default::default()
        };
        let events = operator.events().watch_events(events).await;
        let watched = WatchDeploymentRequest {
            deployment_id: deployment.to_owned(),
        };
        let watched = operator.deployments().watch_deployment(watched).await;
        let mut devices = devices.expect("it is allowed").into_inner();
        devices.message().await.expect("it shows what is there");
        let mut events = events.expect("it is allowed").into_inner();
        events.message().await.expect("it says where it begins");
        let mut watched = watched.expect("it is allowed").into_inner();
        watched.message().await.expect("it shows what is there");
        let mut read = JoinSet::new();
        read.spawn(async { ("a watch of devices", end(devices).await.0) });
        read.spawn(async { ("a watch of events", end(events).await.0) });
        read.spawn(async { ("a watch of a deployment", end(watched).await.0) });
        let uploading = operator.clone();
        let (taken, took) = oneshot::channel();
        let first = tokio_stream::once(Bytes::from_static(b"x"));
        let rest = tokio_stream::once(()).map(move |()| Bytes::from_static(b"y"));
        // Asked for the second piece, it has given the first one away.
        let mut taken = Some(taken);
        let rest = rest.map(move |piece| {
            let _ = taken.take().map(|taken| taken.send(()));
            piece
        });
        let pieces = first.chain(rest).chain(tokio_stream::pending());
        read.spawn(async move {
            let begin = UploadBegin {
                size_bytes: 1 << 30,
                ..Default::default()
            };
            let ended = uploading.try_push_stream(begin, pieces).await;
            ("an upload", ended.expect_err("it has no end"))
        });
        took.await.expect("the upload has begun");
        Self {
            read,
            fetch: fetch.expect("it is allowed").into_inner(),
        }
    }

    /// How each call ends.
    async fn ends(mut self) -> Vec<(&'static str, Status)> {
        let mut ends = Vec::new();
        while let Some(ended) = soon("a stream", self.read.join_next()).await {
            ends.push(ended.expect("no panic"));
        }
        ends.push(("a fetch", soon("a fetch", end(self.fetch)).await.0));
        ends
    }
}

/// A large bundle, and a deployment that waits for a device that is away.
async fn prepared(server: &TestServer) -> (String, String) {
    let operator = server.operator();
    let large = operator
        .push(&bundle::noisy("large", "1.0", 24, "true").await)
        .await;
    server.raw_device("edge-1").await;
    let deployment = operator.deploy(&large, &["edge-1"]).await;
    (large.digest, deployment)
}

both_databases![
    a_replaced_key_with_an_open_session_gets_nothing_and_is_not_recorded,
    only_the_holder_of_the_key_learns_that_its_device_was_deleted,
    a_deleted_device_stops_its_work_and_can_enrol_as_a_new_one,
    a_deletion_names_attempts_that_were_not_answered,
    open_calls_of_a_token_end_when_it_is_revoked,
    open_calls_of_a_token_end_when_it_expires,
    a_caller_that_revokes_its_own_token_gets_an_answer,
    a_download_of_a_replaced_key_ends,
];

async fn a_replaced_key_with_an_open_session_gets_nothing_and_is_not_recorded(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut old = server.raw_device("edge-1").await;
    let mut session = old.connect(&server).await;
    let bundle = operator
        .push(&BundleBuilder::script("app", "1.0", "true").gzip().await)
        .await;
    let before = operator.deploy(&bundle, &["edge-1"]).await;
    let (command, deploy) = session.deploy_command().await;
    session.accept(&command, 1).await;

    let mut new = replace(&server, "edge-1").await;
    let forged = Report {
        attempt: command.attempt.clone(),
        seq: 2,
        event: Some(report::Event::Outcome(succeeded(&deploy))),
        ..Default::default()
    };
    session.send(up::Message::Report(forged)).await;
    let other = operator
        .push(&BundleBuilder::script("app", "2.0", "true").gzip().await)
        .await;
    let after = operator.deploy(&other, &["edge-1"]).await;
    let (status, commanded) = soon("the old session", session_end(&mut session)).await;
    assert_eq!(
        (status.code(), reason(&status)),
        (Code::Unauthenticated, Some(Reason::KeyReplaced)),
        "{status}"
    );
    assert!(!commanded, "it was given something to do");
    let refused = old.try_connect(&server).await.unwrap_err();
    assert_eq!(reason(&refused), Some(Reason::KeyReplaced), "{refused}");
    assert!(
        refused.message().contains("edge-1") && refused.message().contains("new key"),
        "{refused}"
    );

    let mut session = new.connect(&server).await;
    let (command, deploy) = session.deploy_command().await;
    assert_eq!(deploy.version, "2.0");
    session.accept(&command, 1).await;
    session.outcome(&command, 2, succeeded(&deploy)).await;
    operator.finished(&after).await;
    let target = operator.target(&before).await;
    assert_eq!(
        target.state(),
        AttemptState::Failed,
        "not what the old key said: {target:?}"
    );
    let releases = operator.device("edge-1").await.releases;
    assert_eq!(releases.len(), 1);
    assert_eq!(
        (
            releases[0].version.as_str(),
            releases[0].previous_digest.as_str()
        ),
        ("2.0", "")
    );
}

async fn only_the_holder_of_the_key_learns_that_its_device_was_deleted(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut device = server.raw_device("edge-1").await;
    let mut stranger = device.clone();
    stranger.key = server.raw_device("edge-2").await.key;
    let mut session = device.connect(&server).await;
    let request = DeleteDeviceRequest {
        device: "edge-1".into(),
        ..Default::default()
    };
    operator.devices().delete_device(request).await.unwrap();
    let (status, _) = soon("the session", session_end(&mut session)).await;
    assert_eq!(
        (status.code(), reason(&status)),
        (Code::Unauthenticated, Some(Reason::DeviceDeleted)),
        "{status}"
    );
    let told = device.try_connect(&server).await.unwrap_err();
    assert_eq!(
        (told.code(), reason(&told)),
        (Code::Unauthenticated, Some(Reason::DeviceDeleted)),
        "{told}"
    );
    assert!(told.message().contains("edge-1"), "{told}");
    let vague = stranger.try_connect(&server).await.unwrap_err();
    assert_eq!(
        (vague.code(), reason(&vague)),
        (Code::Unauthenticated, Some(Reason::Unauthenticated)),
        "{vague}"
    );

    let token = operator.enrollment_token(&[]).await;
    let again = RawIdentity::enrol_with(&server, &token, device.key.clone(), "edge-1")
        .await
        .unwrap_err();
    assert_eq!(
        reason(&again),
        Some(Reason::DeviceDeleted),
        "the key is the cause, whatever the token is: {again}"
    );
    let fresh = RawIdentity::enrol(&server, &token, server.new_key(), "edge-1")
        .await
        .unwrap();
    assert_ne!(fresh.device, device.device);
}

async fn a_deleted_device_stops_its_work_and_can_enrol_as_a_new_one(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut agent = server.agent("edge-1").await;
    let before = operator.device("edge-1").await.id;
    let (begun, ended) = (
        server.scratch().join("begun"),
        server.scratch().join("ended"),
    );
    let script = format!(
        "date > {}; sleep 30; date > {}",
        begun.display(),
        ended.display()
    );
    let bundle = operator
        .push(&BundleBuilder::script("app", "1.0", &script).gzip().await)
        .await;
    let deployment = operator.deploy(&bundle, &["edge-1"]).await;
    wait_for("the script to begin", || async {
        seen(begun.exists(), "not yet")
    })
    .await;

    let deleted = Ctl::on(&server).run(&["device", "delete", "edge-1", "--yes"]);
    assert_eq!(deleted.code, Some(0), "{}", deleted.stderr);
    assert!(
        deleted.stderr.contains("app:1.0: stopped, cancelled"),
        "{}",
        deleted.stderr
    );
    assert!(!ended.exists(), "the script went on");
    let target = operator.target(&deployment).await;
    assert_eq!(target.state(), AttemptState::Cancelled, "{target:?}");
    let told = || async {
        let log = agent.process().log();
        let told =
            log.contains("this device was deleted from the server") && log.contains("--new-key");
        seen(told, log.lines().last().unwrap_or_default().to_owned())
    };
    wait_for("the agent to say why", told).await;

    let token = operator.enrollment_token(&[]).await;
    let state = agent.state.clone();
    let enroll = |more: &[&str]| {
        let mut command = bare_command("enroll");
        command.args([
            "--server",
            &server.url(),
            "--token",
            &token,
            "--name",
            "edge-1",
        ]);
        let output = command
            .args(more)
            .arg("--state-dir")
            .arg(&state)
            .output()
            .unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let (enrolled, why) = enroll(&[]);
    assert!(
        !enrolled && why.contains("edge-1") && why.contains("deleted") && why.contains("--new-key"),
        "{why}"
    );
    assert!(!why.contains("refused the token"), "{why}");
    let (enrolled, why) = enroll(&["--new-key"]);
    assert!(!enrolled && why.contains("stop the agent first"), "{why}");
    agent.stop();
    let (enrolled, why) = enroll(&["--new-key"]);
    assert!(enrolled, "{why}");
    assert!(state.join(format!("journal.redb.of-{before}")).exists());
    agent.start_again();
    assert_ne!(operator.online("edge-1").await.id, before);
    assert!(!ended.exists());
}

async fn a_deletion_names_attempts_that_were_not_answered(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let bundle = operator
        .push(&BundleBuilder::script("app", "1.0", "true").gzip().await)
        .await;
    let mut deaf = server.raw_device("edge-1").await;
    let mut session = deaf.connect(&server).await;
    operator.deploy(&bundle, &["edge-1"]).await;
    let (command, _) = session.deploy_command().await;
    session.accept(&command, 1).await;
    let request = DeleteDeviceRequest {
        device: "edge-1".into(),
        request_id: "018f3c1f-6e00-7000-8000-000000000001".into(),
    };
    let answer = operator
        .devices()
        .delete_device(request.clone())
        .await
        .unwrap()
        .into_inner();
    let told: Vec<_> = answer
        .work
        .iter()
        .map(|work| (work.bundle.as_str(), work.answered))
        .collect();
    assert_eq!(told, [("app:1.0", false)]);
    let (status, commanded) = soon("the session", session_end(&mut session)).await;
    assert!(
        commanded && reason(&status) == Some(Reason::DeviceDeleted),
        "it was told to stop first: {status}"
    );
    let again = operator
        .devices()
        .delete_device(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(again, answer, "the same request has the same answer");

    let mut away = server.raw_device("edge-2").await;
    let mut session = away.connect(&server).await;
    operator.deploy(&bundle, &["edge-2"]).await;
    let (command, _) = session.deploy_command().await;
    session.accept(&command, 1).await;
    drop(session);
    operator.offline("edge-2").await;
    let deleted = Ctl::on(&server).run(&["device", "delete", "edge-2", "--yes"]);
    assert_eq!(deleted.code, Some(0), "{}", deleted.stderr);
    assert!(
        deleted
            .stderr
            .contains("app:1.0: the device did not answer; its script may still run"),
        "{}",
        deleted.stderr
    );
}

async fn open_calls_of_a_token_end_when_it_is_revoked(database: Database) {
    let server = TestServer::start(database).await;
    let (bundle, deployment) = prepared(&server).await;
    let eve = token_holder(&server, 0).await;
    eve.operator.who_am_i().await.expect("the token works");
    let streams = Streams::open(&server, &eve, &bundle, &deployment).await;
    revoke(&server, &eve.token_id).await;
    let refused = eve.operator.who_am_i().await.unwrap_err();
    assert_eq!(
        refused.code(),
        Code::Unauthenticated,
        "though it was looked up a moment ago"
    );
    for (what, status) in streams.ends().await {
        assert_eq!(status.code(), Code::Unauthenticated, "{what}: {status}");
    }
    server.operator().who_am_i().await.expect("others go on");
}

async fn open_calls_of_a_token_end_when_it_expires(database: Database) {
    let server = TestServer::start(database).await;
    let (bundle, deployment) = prepared(&server).await;
    let eve = token_holder(&server, 15).await;
    let streams = Streams::open(&server, &eve, &bundle, &deployment).await;
    for (what, status) in streams.ends().await {
        assert_eq!(status.code(), Code::Unauthenticated, "{what}: {status}");
        assert!(status.message().contains("expired"), "{what}: {status}");
    }
    assert_eq!(
        eve.operator.who_am_i().await.unwrap_err().code(),
        Code::Unauthenticated
    );
}

async fn a_caller_that_revokes_its_own_token_gets_an_answer(database: Database) {
    let server = TestServer::start(database).await;
    let request = CreateOperatorTokenRequest {
        name: "ada".into(),
        role: Role::Admin.into(),
        ..Default::default()
    };
    let made = server
        .operator()
        .access()
        .create_operator_token(request)
        .await
        .unwrap()
        .into_inner();
    let ada = server.operator().with_token(&made.text);
    let request = RevokeOperatorTokenRequest {
        token_id: made.token_id,
        ..Default::default()
    };
    ada.access()
        .revoke_operator_token(request)
        .await
        .expect("it is answered");
    assert_eq!(
        ada.who_am_i().await.unwrap_err().code(),
        Code::Unauthenticated
    );
}

async fn a_download_of_a_replaced_key_ends(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let large = operator
        .push(&bundle::noisy("large", "1.0", 24, "true").await)
        .await;
    let mut old = server.raw_device("edge-1").await;
    let mut session = old.connect(&server).await;
    operator.deploy(&large, &["edge-1"]).await;
    let (_, deploy) = session.deploy_command().await;
    let download = session
        .begin_download(&deploy.digest)
        .await
        .expect("it may");
    replace(&server, "edge-1").await;
    let (status, read) = soon("the download", end(download)).await;
    let bytes: usize = read.iter().map(|piece| piece.chunk.len()).sum();
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    assert!((bytes as u64) < large.size_bytes, "all of it came: {bytes}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(
    not(kernex_postgres),
    ignore = "no PostgreSQL here: install it (Debian: apt install postgresql) or set KERNEX_TEST_POSTGRES_URL"
)]
async fn a_revocation_on_one_replica_ends_sessions_on_the_other() {
    let first = TestServer::start(Database::Postgres).await;
    let second = first.replica().await;
    let mut old = first.raw_device("edge-1").await;
    let mut session = old.connect(&second).await;
    session.heartbeat(1).await;
    let eve = token_holder(&second, 0).await;
    let events = WatchEventsRequest {
        from_now: true,
        ..Default::default()
    };
    let events = eve.operator.events().watch_events(events).await.unwrap();

    replace(&first, "edge-1").await;
    let (status, _) = soon("the session", session_end(&mut session)).await;
    assert_eq!(reason(&status), Some(Reason::KeyReplaced), "{status}");
    revoke(&first, &eve.token_id).await;
    let (status, _) = soon("the watch", end(events.into_inner())).await;
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    let refused = eve.operator.who_am_i().await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
}
