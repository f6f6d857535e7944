//! Many strangers at once keep nobody out.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use kernex_integration_tests::{
    Database, Fleet, ServerOptions, TestServer, both_databases,
    fleet::{Connector, Options, Roster, WireError},
    http::HttpClient,
    server::free_port,
    wait::{seen, wait_for_within},
    wait_for,
};
use kernex_proto::v1::{
    DeviceSessionRequest, DeviceSessionResponse, Hello, ListDevicesResponse,
    device_session_request::Message as Up,
};
use tokio::{sync::Mutex, task::JoinSet};

use super::{Driven, ENROLL, LIST, LONG, SESSION, announced, with};

/// Pause between two tries of an attacker: it shares the processors of this machine and must not
/// win by using them up.
const PAUSE: Duration = Duration::from_millis(200);

/// Taken by tests with a thousand agents: one of them runs at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

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
    let one = Connector::to(&server).behind(Ipv4Addr::new(127, 7, 0, 1));
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
    let proxied = Connector::to(&server).proxied(Ipv4Addr::new(127, 9, 0, 1), Some(caller));
    a_thousand_get_in(&server, proxied).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_of_one_source_are_limited_and_known_clients_are_not() {
    let settings = [
        ("KERNEX_MAX_STRANGERS_PER_SOURCE", "4"),
        ("KERNEX_PROBATION", "10m"),
    ];
    let server = with(Database::Sqlite, &settings).await;
    let one = Connector::to(&server).behind(Ipv4Addr::new(127, 7, 0, 1));
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
    let connector = Connector::to(&server);
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
        let series = "kernex_connections_total{result=\"evicted\"}";
        let evicted = http.metric(series).await;
        seen(evicted.is_some_and(|evicted| evicted > 10.0), evicted)
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
