//! Strangers: connections on which nothing has authenticated cost little, end in time, and keep
//! nobody out.

mod crowds;
mod guesses;
mod proxies;

use std::{net::Ipv4Addr, time::Duration};

use bytes::Bytes;
use kernex_integration_tests::{
    Database, Fleet, ServerOptions, TestServer, both_databases,
    fleet::{Calls, Connector, Options, Roster, Sender, Wire, WireError},
    wait_for,
};
use kernex_proto::v1::{DeviceSessionResponse, ListDevicesRequest, ListDevicesResponse};
use tokio::task::JoinSet;
use tonic::{Code, Status};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_types::StatusExt as _;

const ENROLL: &str = "/kernex.v1.AgentService/Enroll";

const SESSION: &str = "/kernex.v1.AgentService/DeviceSession";

const LIST: &str = "/kernex.v1.DeviceService/ListDevices";

const WATCH: &str = "/grpc.health.v1.Health/Watch";

/// A thousand agents in a debug build on a machine with other things to do.
const LONG: Duration = Duration::from_secs(400);

async fn with(database: Database, settings: &[(&str, &str)]) -> TestServer {
    let options = settings
        .iter()
        .fold(ServerOptions::default(), |options, (name, value)| {
            options.env(name, *value)
        });
    TestServer::start_with(database, options).await
}

/// The head of a message of so many bytes.
fn announced(length: u32) -> Bytes {
    let mut head = vec![0];
    head.extend(length.to_be_bytes());
    head.into()
}

/// The status a call ended with.
fn status<T: std::fmt::Debug>(answer: Result<T, WireError>) -> Status {
    match answer {
        Err(WireError::Status(status)) => *status,
        other => panic!("expected a status, got {other:?}"),
    }
}

/// Ends the request; the server may have refused it before.
fn finish(up: &mut Sender) {
    let _ = up.finish();
}

/// Drives connections for as long as it lives.
#[derive(Default)]
struct Driven(JoinSet<()>);

impl Driven {
    fn drive(&mut self, mut wire: Wire) -> Calls {
        let calls = wire.calls.clone();
        self.0.spawn(async move {
            let _ = wire.drive().await;
        });
        calls
    }

    /// Waits until one of the connections is over.
    async fn one_ends(&mut self) {
        let ended = tokio::time::timeout(Duration::from_secs(90), self.0.join_next()).await;
        ended
            .expect("a connection ends")
            .expect("there is one")
            .expect("no panic");
    }
}

both_databases![an_idle_connection_that_answers_pings_is_closed_and_a_session_is_not];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_enrolments_are_refused_unread_and_their_connections_end() {
    let server = with(Database::Sqlite, &[("KERNEX_PROBATION", "3s")]).await;
    let (connector, mut driven) = (Connector::to(&server), Driven::default());
    let before = server.process().memory_kib();
    let mut answers = Vec::new();
    let mut kept = Vec::new();
    for number in 0..2 {
        let calls = driven.drive(connector.connect(number).await.expect("connects"));
        for _ in 0..250 {
            // The server may be done with this connection before all of them are sent.
            let Ok((mut up, down)) = calls.open(ENROLL, &[]).await else {
                break;
            };
            let _ = up.send_raw(announced(2_097_088));
            let _ = up.send_raw(vec![0; 64 * 1024]);
            kept.push(up);
            answers.push(down);
        }
    }
    let first = status(answers[0].next::<ListDevicesResponse>().await);
    assert_eq!(first.code(), Code::OutOfRange, "{first}");
    assert!(first.message().contains("16384"), "{first}");
    let grown = server.process().memory_kib().saturating_sub(before);
    assert!(grown < 32 * 1024, "the server has grown by {grown} KiB");
    driven.one_ends().await;
    driven.one_ends().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_enrolment_that_trickles_ends_within_its_time() {
    let server = with(Database::Sqlite, &[("KERNEX_PROBATION", "10m")]).await;
    let mut driven = Driven::default();
    let calls = driven.drive(Connector::to(&server).connect(0).await.expect("connects"));
    let (mut up, mut down) = calls.open(ENROLL, &[]).await.expect("a call");
    up.send_raw(announced(16_000)).expect("sent");
    up.send_raw(vec![0; 100]).expect("sent");
    let ended = tokio::time::timeout(Duration::from_secs(90), down.next::<ListDevicesResponse>());
    let refused = status(ended.await.expect("it ends"));
    assert_eq!(refused.code(), Code::DeadlineExceeded, "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_has_eight_calls_and_a_hello_of_bounded_size() {
    let server = TestServer::start(Database::Sqlite).await;
    let (connector, mut driven) = (Connector::to(&server), Driven::default());
    let calls = driven.drive(connector.connect(0).await.expect("connects"));
    let mut open = Vec::new();
    for _ in 0..8 {
        let (up, mut down) = calls.open(SESSION, &[]).await.expect("a call");
        let challenge = down
            .next::<DeviceSessionResponse>()
            .await
            .expect("it is served");
        assert!(challenge.is_some());
        open.push((up, down));
    }
    let (mut up, mut down) = calls.open(SESSION, &[]).await.expect("a call");
    finish(&mut up);
    let refused = status(down.next::<DeviceSessionResponse>().await);
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(
        refused.get_error_details().retry_info().is_some(),
        "{refused:?}"
    );

    let (up, down) = &mut open[0];
    up.send_raw(announced(300_000)).expect("sent");
    let refused = status(down.next::<DeviceSessionResponse>().await);
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(refused.message().contains("too long"), "{refused}");
    // The place is free again when the answer ends.
    wait_for("a place to come back", || async {
        let opened = calls.open(SESSION, &[]).await;
        let (_up, mut down) = opened.map_err(|error| error.to_string())?;
        match down.next::<DeviceSessionResponse>().await {
            Ok(Some(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

async fn an_idle_connection_that_answers_pings_is_closed_and_a_session_is_not(database: Database) {
    let server = with(database, &[("KERNEX_PROBATION", "1s")]).await;
    let mut device = server.raw_device("edge-1").await;
    let mut session = device.connect(&server).await;
    let mut driven = Driven::default();
    let calls = driven.drive(Connector::to(&server).connect(0).await.expect("connects"));
    driven.one_ends().await;
    drop(calls);
    // The session has lived longer than that by now.
    session.heartbeat(1).await;
    assert!(server.process().log().contains("a stranger was refused"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_cannot_make_the_log_grow() {
    let server = with(Database::Sqlite, &[("RUST_LOG", "info")]).await;
    let connector = Connector::to(&server).behind(Ipv4Addr::new(127, 7, 0, 1));
    let made_up: &'static str = Box::leak(format!("/made.up.{}/Call", "x".repeat(8_000)).into());
    let before = server.process().said();
    for round in 0..20 {
        let mut driven = Driven::default();
        let calls = driven.drive(connector.connect(round).await.expect("connects"));
        for path in [made_up, LIST].repeat(10) {
            let (mut up, mut down) = calls.open(path, &[]).await.expect("a call");
            finish(&mut up);
            let refused = status(down.next::<ListDevicesResponse>().await);
            let expected = if path == LIST {
                Code::Unauthenticated
            } else {
                Code::Unimplemented
            };
            assert_eq!(refused.code(), expected, "{refused}");
        }
    }
    let grown = server.process().said() - before;
    assert!(grown < 16 * 1024, "400 refused calls took {grown} bytes");
    let log = server.process().log();
    assert!(
        log.contains("a stranger was refused") && log.contains("127.7.0.1"),
        "{log}"
    );
    assert!(!log.contains("made.up"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guessing_is_limited_and_the_right_token_gets_in_from_the_same_address() {
    let server = TestServer::start(Database::Sqlite).await;
    let connector = Connector::to(&server).behind(Ipv4Addr::new(127, 7, 0, 1));
    let mut driven = Driven::default();
    let bad = [("authorization", "Bearer guess".to_owned())];
    let calls = driven.drive(connector.connect(0).await.expect("connects"));
    let limited = loop {
        let (mut up, mut down) = calls.open(LIST, &bad).await.expect("a call");
        finish(&mut up);
        let refused = status(down.next::<ListDevicesResponse>().await);
        if refused.code() != Code::Unauthenticated {
            break refused;
        }
    };
    assert_eq!(limited.code(), Code::ResourceExhausted, "{limited}");
    assert!(
        limited.get_error_details().retry_info().is_some(),
        "{limited:?}"
    );

    let good = [("authorization", format!("Bearer {}", server.admin_token()))];
    let calls = driven.drive(connector.connect(1).await.expect("connects"));
    let (mut up, mut down) = calls.open(LIST, &good).await.expect("a call");
    up.send(&ListDevicesRequest::default()).expect("sent");
    finish(&mut up);
    down.next::<ListDevicesResponse>()
        .await
        .expect("it is answered");
    let roster = Roster::enrol(&server, 5).await;
    let fleet =
        Fleet::start(connector, &roster, Options::default()).expect("there are descriptors");
    fleet.all_online(LONG).await;
    assert_eq!(fleet.counters().tally().refused, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_watches_are_limited_on_one_connection() {
    let server = TestServer::start(Database::Sqlite).await;
    let mut driven = Driven::default();
    let calls = driven.drive(Connector::to(&server).connect(0).await.expect("connects"));
    let mut watches = Vec::new();
    for _ in 0..4 {
        let (mut up, mut down) = calls.open(WATCH, &[]).await.expect("a call");
        up.send(&HealthCheckRequest::default()).expect("sent");
        finish(&mut up);
        let health = down
            .next::<HealthCheckResponse>()
            .await
            .expect("it is served");
        assert!(health.is_some());
        watches.push((up, down));
    }
    let (mut up, mut down) = calls.open(WATCH, &[]).await.expect("a call");
    finish(&mut up);
    let refused = status(down.next::<HealthCheckResponse>().await);
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
}
