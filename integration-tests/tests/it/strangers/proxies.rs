//! Strangers behind a proxy, whose header names them.

use std::net::{Ipv4Addr, SocketAddrV4};

use kernex_integration_tests::{
    Database, fleet::Connector, http::HttpClient, server::free_port, wait::seen, wait_for,
};
use kernex_proto::v1::ListDevicesResponse;
use tonic::Code;

use super::{Driven, LIST, finish, status, with};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_header_of_a_trusted_proxy_names_the_source() {
    let http = HttpClient::at(free_port());
    let address = http.address();
    let settings = [
        ("KERNEX_TRUSTED_PROXIES", "127.9.0.1,10.0.0.0/8"),
        ("KERNEX_METRICS_LISTEN", address.as_str()),
        ("RUST_LOG", "info"),
    ];
    let server = with(Database::Sqlite, &settings).await;
    let proxy = Ipv4Addr::new(127, 9, 0, 1);
    let direct = Connector::to(&server);
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
    // The proxy sends no header. Its line for this minute is in the log already, so it is only
    // counted.
    let hidden = direct.behind(proxy).connect(0).await;
    assert!(hidden.is_err());
    wait_for("it to be counted", || async {
        let series = "kernex_strangers_refused_total{reason=\"proxy_header\"}";
        let counted = http.metric(series).await;
        seen(counted == Some(1.0), counted)
    })
    .await;
    // From an address that is not trusted a header is broken TLS.
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
    let silent = Connector::to(&server).behind(Ipv4Addr::new(127, 9, 0, 1));
    assert!(silent.connect(0).await.is_err());
    wait_for("the log to say what to do", || async {
        let log = server.process().log();
        let told = log.contains("127.9.0.1") && log.contains("take it out of --trusted-proxies");
        seen(told, log)
    })
    .await;
}
