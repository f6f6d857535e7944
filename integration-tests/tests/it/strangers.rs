//! Strangers: connections on which nothing has authenticated cost little, end in time, and keep
//! nobody out.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddrV4},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use kernex_integration_tests::{
    Database, Fleet, ServerOptions, TestServer, both_databases,
    fleet::{Calls, Connector, Options, Roster, Sender, Wire, WireError},
    http::HttpClient,
    server::free_port,
    wait::seen,
    wait::wait_for_within,
    wait_for,
};
use kernex_proto::v1::{
    DeviceSessionRequest, DeviceSessionResponse, Hello, ListDevicesRequest, ListDevicesResponse,
    device_session_request::Message as Up,
};
use tokio::{sync::Mutex, task::JoinSet};
use tonic::{Code, Status};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_types::StatusExt as _;

const ENROLL: &str = "/kernex.v1.AgentService/Enroll";
const SESSION: &str = "/kernex.v1.AgentService/DeviceSession";
const LIST: &str = "/kernex.v1.DeviceService/ListDevices";
const WATCH: &str = "/grpc.health.v1.Health/Watch";

/// A thousand agents in a debug build on a machine with other things to do.
const LONG: Duration = Duration::from_secs(400);

/// Pause between two tries of an attacker: it shares the processors of this machine and must not
/// win by using them up.
const PAUSE: Duration = Duration::from_millis(200);

/// Taken by tests with a thousand agents: one of them runs at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

fn connector(server: &TestServer) -> Connector {
    let ca = fs::read(server.data().join("ca.pem")).expect("the CA can be read");
    Connector::new(server.port(), &ca)
}

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

/// Runs every attack that a stranger can make, from the address of a connector, until it is
/// dropped.
fn attack(connector: &Connector, made: &Arc<AtomicU64>) -> JoinSet<()> {
    let mut attack = JoinSet::new();
    for number in 0..300 {
        let (connector, made) = (connector.clone(), Arc::clone(made));
        attack.spawn(async move {
            loop {
                let Ok(mut wire) = connector.connect(number).await else {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                };
                made.fetch_add(1, Relaxed);
                let calls = wire.calls.clone();
                let _ = wire
                    .during(async {
                        match number % 30 {
                            0 => loop {
                                let bad = [("authorization", "Bearer guess".to_owned())];
                                let (mut up, mut down) = calls.open(LIST, &bad).await?;
                                up.finish()?;
                                let _ = down.next::<ListDevicesResponse>().await;
                                tokio::time::sleep(PAUSE / 10).await;
                            },
                            1 => loop {
                                let (mut up, mut down) = calls.open(SESSION, &[]).await?;
                                up.send(&DeviceSessionRequest {
                                    message: Some(Up::Hello(Hello::default())),
                                })?;
                                while let Ok(Some(_)) = down.next::<DeviceSessionResponse>().await {
                                }
                            },
                            2 => {
                                let mut kept = Vec::new();
                                for _ in 0..200 {
                                    let (mut up, down) = calls.open(ENROLL, &[]).await?;
                                    up.send_raw(announced(16_000))?;
                                    up.send_raw(vec![0; 8_000])?;
                                    kept.push((up, down));
                                }
                                std::future::pending().await
                            }
                            // Holds its place and answers pings.
                            _ => std::future::pending::<Result<(), WireError>>().await,
                        }
                    })
                    .await;
                tokio::time::sleep(PAUSE).await;
            }
        });
    }
    attack
}

/// A thousand agents get in from where an attack comes from.
async fn a_thousand_get_in(server: &TestServer, connector: Connector) {
    let _alone = ONE_AT_A_TIME.lock().await;
    let roster = Roster::enrol(server, 1000).await;
    let made = Arc::default();
    let attack = attack(&connector, &made);
    wait_for("the attack to be on", || async {
        let made = made.load(Relaxed);
        seen(made >= 200, made)
    })
    .await;
    let fleet =
        Fleet::start(connector, &roster, Options::default()).expect("there are descriptors");
    fleet.all_online(LONG).await;
    let before = fleet.counters().tally();
    assert!(made.load(Relaxed) > 300, "the attack went on");
    drop(attack);
    // None of them was disconnected because of the others.
    assert_eq!(before.lost, 0, "{before:?}");
}

both_databases![a_thousand_agents_get_in_while_a_stranger_attacks_from_their_address];

async fn a_thousand_agents_get_in_while_a_stranger_attacks_from_their_address(database: Database) {
    let server = with(database, &[("RUST_LOG", "info")]).await;
    let one = connector(&server).behind(Ipv4Addr::new(127, 7, 0, 1));
    a_thousand_get_in(&server, one).await;
    let operator = server.operator();
    let newcomer = server.channel().await;
    drop((
        operator.who_am_i().await.expect("an operator is answered"),
        newcomer,
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_agents_get_in_while_a_stranger_attacks_from_their_proxy() {
    let settings = [
        ("RUST_LOG", "info"),
        ("KERNEX_TRUSTED_PROXIES", "127.9.0.1"),
    ];
    let server = with(Database::Sqlite, &settings).await;
    let caller = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 7), 4711);
    let proxied = connector(&server).proxied(Ipv4Addr::new(127, 9, 0, 1), Some(caller));
    a_thousand_get_in(&server, proxied).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_enrolments_are_refused_unread_and_their_connections_end() {
    let server = with(Database::Sqlite, &[("KERNEX_PROBATION", "3s")]).await;
    let (connector, mut driven) = (connector(&server), Driven::default());
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
    let calls = driven.drive(connector(&server).connect(0).await.expect("connects"));
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
    let (connector, mut driven) = (connector(&server), Driven::default());
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

both_databases![an_idle_connection_that_answers_pings_is_closed_and_a_session_is_not];

async fn an_idle_connection_that_answers_pings_is_closed_and_a_session_is_not(database: Database) {
    let server = with(database, &[("KERNEX_PROBATION", "1s")]).await;
    let mut device = server.raw_device("edge-1").await;
    let mut session = device.connect(&server).await;
    let mut driven = Driven::default();
    let calls = driven.drive(connector(&server).connect(0).await.expect("connects"));
    driven.one_ends().await;
    drop(calls);
    // The session has lived longer than that by now.
    session.heartbeat(1).await;
    assert!(server.process().log().contains("a stranger was refused"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_of_one_source_are_limited_and_known_clients_are_not() {
    let settings = [
        ("KERNEX_MAX_STRANGERS_PER_SOURCE", "4"),
        ("KERNEX_PROBATION", "10m"),
    ];
    let server = with(Database::Sqlite, &settings).await;
    let one = connector(&server).behind(Ipv4Addr::new(127, 7, 0, 1));
    let roster = Roster::enrol(&server, 40).await;
    let fleet =
        Fleet::start(one.clone(), &roster, Options::default()).expect("there are descriptors");
    fleet.all_online(LONG).await;
    let mut driven = Driven::default();
    for number in 0..4 {
        driven.drive(one.connect(number).await.expect("connects"));
    }
    // The fifth gets in when one of the others has held its place for long enough.
    driven.drive(one.connect(4).await.expect("connects in its turn"));
    driven.one_ends().await;
    let tally = fleet.counters().tally();
    assert_eq!((tally.online, tally.lost), (40, 0), "{tally:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_make_room_for_known_clients_and_probes_are_answered() {
    let http = HttpClient::at(free_port());
    let options = ServerOptions::default()
        .env("KERNEX_METRICS_LISTEN", http.address())
        .descriptors(256);
    let server = TestServer::start_with(Database::Sqlite, options).await;
    let connector = connector(&server);
    let mut held = JoinSet::new();
    for number in 0..400 {
        let connector = connector.clone();
        held.spawn(async move {
            loop {
                if let Ok(mut wire) = connector.connect(number).await {
                    let _ = wire.drive().await;
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        });
    }
    let evicted = wait_for("strangers to make room for others", || async {
        let scrape = http.get("/metrics").await.body;
        let line = "kernex_connections_total{result=\"evicted\"} ";
        let evicted = scrape
            .lines()
            .find_map(|text| text.strip_prefix(line)?.parse::<u64>().ok());
        seen(evicted.is_some_and(|evicted| evicted > 10), evicted)
    });
    evicted.await;
    for path in ["/healthz", "/readyz"] {
        assert_eq!(http.get(path).await.status, 200, "{path}");
    }
    // Connections of its own, each of them new.
    for _ in 0..3 {
        let device = server
            .raw_device(&format!("edge-{}", server.new_key()))
            .await;
        let newcomer = wait_for_within(LONG, "a new connection to be served", || async {
            let mut device = device.clone();
            device
                .try_connect(&server)
                .await
                .map_err(|status| status.to_string())
        });
        newcomer.await.heartbeat(1).await;
    }
    held.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_cannot_make_the_log_grow() {
    let server = with(Database::Sqlite, &[("RUST_LOG", "info")]).await;
    let connector = connector(&server).behind(Ipv4Addr::new(127, 7, 0, 1));
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
    let connector = connector(&server).behind(Ipv4Addr::new(127, 7, 0, 1));
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

    let token = fs::read_to_string(server.data().join("admin.token")).expect("a token");
    let good = [("authorization", format!("Bearer {}", token.trim()))];
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
async fn the_header_of_a_trusted_proxy_names_the_source() {
    let settings = [
        ("KERNEX_TRUSTED_PROXIES", "127.9.0.1,10.0.0.0/8"),
        ("RUST_LOG", "info"),
    ];
    let server = with(Database::Sqlite, &settings).await;
    let proxy = Ipv4Addr::new(127, 9, 0, 1);
    let direct = connector(&server);
    let refused = async |connector: &Connector| {
        let mut driven = Driven::default();
        let calls = driven.drive(connector.connect(0).await.expect("connects"));
        let (mut up, mut down) = calls.open(LIST, &[]).await.expect("a call");
        finish(&mut up);
        status(down.next::<ListDevicesResponse>().await)
    };
    let said = async |words: &str| {
        wait_for(words, || async {
            let log = server.process().log();
            seen(log.contains(words), log)
        })
        .await
    };
    let caller = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 7), 4711);
    let answer = refused(&direct.proxied(proxy, Some(caller))).await;
    assert_eq!(answer.code(), Code::Unauthenticated);
    said("203.0.113.7").await;
    // Requests of the proxy itself count for the proxy.
    let answer = refused(&direct.proxied(proxy, None)).await;
    assert_eq!(answer.code(), Code::Unauthenticated);
    let log = said("source=127.9.0.1").await;
    assert!(!log.contains("trusted-proxies"), "{log}");
    // From the address of the proxy, without a header.
    let hidden = direct.behind(Ipv4Addr::new(127, 9, 0, 1)).connect(0).await;
    assert!(hidden.is_err());
    let counted = wait_for("it to be counted", || async {
        let log = server.process().log();
        seen(
            log.contains("proxy_header") || log.contains("127.9.0.1"),
            log,
        )
    });
    counted.await;
    // A header from an address that is not trusted is no TLS.
    assert!(
        direct
            .proxied(Ipv4Addr::new(127, 9, 0, 2), Some(caller))
            .connect(0)
            .await
            .is_err()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trusted_proxy_without_a_header_is_named_in_the_log() {
    let settings = [
        ("KERNEX_TRUSTED_PROXIES", "127.9.0.0/16"),
        ("RUST_LOG", "info"),
    ];
    let server = with(Database::Sqlite, &settings).await;
    let silent = connector(&server).behind(Ipv4Addr::new(127, 9, 0, 1));
    assert!(silent.connect(0).await.is_err());
    wait_for("the log to say what to do", || async {
        let log = server.process().log();
        let told = log.contains("127.9.0.1") && log.contains("take it out of --trusted-proxies");
        seen(told, log)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_watches_are_limited_on_one_connection() {
    let server = TestServer::start(Database::Sqlite).await;
    let mut driven = Driven::default();
    let calls = driven.drive(connector(&server).connect(0).await.expect("connects"));
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
