//! What a watch says while its server cannot be reached.

use std::time::Duration;

use kernex_integration_tests::{
    Ctl, Database, TestServer, process::Process, proxy::Proxy, wait::seen, wait_for,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_says_once_that_the_server_is_away_and_that_it_is_back() {
    let server = TestServer::start(Database::Sqlite).await;
    let operator = server.operator();
    // Nothing happens until it is online.
    server.raw_device("edge-1").await;
    operator.push_script("app", "1.0", "true").await;
    let proxy = Proxy::to(server.port()).await;
    let ctl = Ctl::on(&server);
    let _ = ctl.ok(&["deploy", "app:1.0", "--device", "edge-1", "--name", "one"]);
    let token = server.data().join("admin.token");
    let mut watch = ctl.command(&["deployment", "watch", "one"]);
    watch
        .env("KERNEX_SERVER", proxy.url())
        .env("KERNEX_CA", server.data().join("ca.pem"))
        .env(
            "KERNEX_TOKEN",
            std::fs::read_to_string(token).unwrap().trim(),
        );
    let log = server.scratch().join("watch.log");
    let mut watch = Process::spawn("kernexctl deployment watch", watch, &log);
    let says = async |words: &str| {
        wait_for(words, || async {
            seen(watch.log().contains(words), watch.log())
        })
        .await;
    };
    says("edge-1").await;
    // Bytes are taken and lead nowhere, as when a cable is pulled.
    proxy.stall();
    says("cannot be reached at the moment").await;
    proxy.heal();
    says("answers again").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(watch.log().matches("cannot be reached").count(), 1);
    assert!(watch.exited().is_none(), "{}", watch.log());
    let _ = ctl.ok(&["deployment", "cancel", "one", "--yes"]);
    let ended = tokio::task::block_in_place(|| watch.wait_within(Duration::from_secs(30)));
    assert_eq!(
        ended.and_then(|status| status.code()),
        Some(3),
        "{}",
        watch.log()
    );
}
