//! Handshakes that are refused.

use std::time::Duration;

use kernex_integration_tests::{
    Database, TestServer, both_databases,
    raw_agent::{Opening, RawIdentity},
};
use kernex_proto::{
    ids::JournalId,
    v1::{Heartbeat, Hello, Ready, device_session_request as up},
};
use tokio::io::AsyncReadExt as _;
use tonic::{Code, Status};

/// Sends a `Hello` that has to be refused; returns the refusal.
async fn refused(
    server: &TestServer,
    identity: &RawIdentity,
    spoil: impl FnOnce(&Opening, &mut Hello),
) -> Status {
    let opening = Opening::new(server)
        .await
        .expect("the server says Challenge");
    let mut hello = opening.hello(identity);
    spoil(&opening, &mut hello);
    opening.say(hello).await.expect_err("it has to be refused")
}

both_databases![
    a_refused_handshake_reveals_nothing,
    a_replayed_handshake_is_refused,
    messages_out_of_order_are_refused_in_a_handshake,
    a_session_without_hello_is_closed,
    a_connection_that_says_nothing_is_closed,
];

async fn a_refused_handshake_reveals_nothing(database: Database) {
    let server = TestServer::start(database).await;
    let device = server.raw_device("edge-1").await;
    let other = server.raw_device("edge-2").await;
    let before = server.operator().device("edge-1").await;
    let mut wrong_key = device.clone();
    wrong_key.key = other.key.clone();
    let mut nobody = device.clone();
    nobody.device = kernex_proto::ids::DeviceId::generate();

    let refusals = [
        ("another key", refused(&server, &wrong_key, |_, _| {}).await),
        ("no such device", refused(&server, &nobody, |_, _| {}).await),
        (
            "altered journal",
            refused(&server, &device, |_, hello| {
                hello.journal_id = JournalId::generate().to_string();
            })
            .await,
        ),
        (
            "altered boot id",
            refused(&server, &device, |_, hello| hello.boot_id.push('x')).await,
        ),
        (
            "altered nonce",
            refused(&server, &device, |_, hello| {
                hello.client_nonce = vec![0; 32].into();
            })
            .await,
        ),
        (
            "another device's name on it",
            refused(&server, &device, |_, hello| {
                hello.device_id = other.device.to_string();
            })
            .await,
        ),
        (
            "no signature",
            refused(&server, &device, |_, hello| hello.signature.clear()).await,
        ),
    ];
    for (what, status) in &refusals {
        assert_eq!(status.code(), Code::Unauthenticated, "{what}: {status}");
        assert_eq!(status.message(), refusals[0].1.message(), "{what}");
    }
    assert_eq!(
        server.operator().device("edge-1").await,
        before,
        "nothing changed"
    );
}

async fn a_replayed_handshake_is_refused(database: Database) {
    let server = TestServer::start(database).await;
    let mut device = server.raw_device("edge-1").await;
    let opening = Opening::new(&server).await.unwrap();
    let recorded = opening.hello(&device);
    drop(opening.say(recorded.clone()).await.unwrap());
    let replayed = refused(&server, &device, |_, hello| *hello = recorded).await;
    assert_eq!(replayed.code(), Code::Unauthenticated);
    let mut session = device.connect(&server).await;
    session.heartbeat(1).await;
}

async fn messages_out_of_order_are_refused_in_a_handshake(database: Database) {
    let server = TestServer::start(database).await;
    let mut device = server.raw_device("edge-1").await;
    for first in [
        up::Message::Ready(Ready { epoch: 1 }),
        up::Message::Heartbeat(Heartbeat::default()),
    ] {
        let opening = Opening::new(&server).await.unwrap();
        let status = opening.say_first(first).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
    let opening = Opening::new(&server).await.unwrap();
    let hello = opening.hello(&device);
    let mut session = opening.say(hello).await.unwrap();
    session
        .send(up::Message::Ready(Ready {
            epoch: session.welcome.epoch + 7,
        }))
        .await;
    assert_eq!(
        session.end().await,
        Code::InvalidArgument,
        "an epoch nobody gave"
    );
    device.last_epoch = session.welcome.epoch;
    device.connect(&server).await.heartbeat(1).await;
}

async fn a_session_without_hello_is_closed(database: Database) {
    let server = TestServer::start(database).await;
    let opening = Opening::new(&server).await.unwrap();
    let silence = opening.silence();
    let status = tokio::time::timeout(Duration::from_secs(20), silence).await;
    let status = status.expect("within 10 seconds, and some");
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
}

async fn a_connection_that_says_nothing_is_closed(database: Database) {
    let server = TestServer::start(database).await;
    let mut silent = tokio::net::TcpStream::connect(("127.0.0.1", server.port()))
        .await
        .unwrap();
    let mut secure = server.tls_stream().await;
    let ends = async {
        // Neither sends anything. The connection with TLS gets the first frames of the server and
        // is then closed.
        let mut rest = Vec::new();
        let _ = silent.read_to_end(&mut rest).await;
        let _ = secure.read_to_end(&mut rest).await;
    };
    tokio::time::timeout(Duration::from_secs(25), ends)
        .await
        .expect("within 10 seconds, and some");
}
