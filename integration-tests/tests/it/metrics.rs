//! Metrics, probes and the dashboard of the server.

use std::{collections::BTreeSet, fs, net::TcpListener};

use kernex_integration_tests::{
    Database, TestServer, both_databases,
    http::metric,
    wait::{next_message, seen},
    wait_for,
};
use kernex_proto::v1::UploadBegin;
use rustix::process::Signal;
use serde_json::Value;

both_databases![
    metrics_follow_what_happens_and_name_no_device,
    devices_that_drift_are_counted_until_they_settle,
    a_refused_handshake_and_a_watch_are_counted,
];

async fn metrics_follow_what_happens_and_name_no_device(database: Database) {
    let (server, http) = TestServer::monitored(database).await;
    let operator = server.operator();
    let _agent = server.agent("edge-of-the-world").await;
    let bundle = operator.push_script("thermostat", "1.0", "true").await;
    operator
        .deploy_and_finish(&bundle, "edge-of-the-world")
        .await;
    let size = bundle.size_bytes as f64;
    let scrape = wait_for("every figure to show it", || async {
        let scrape = http.get("/metrics").await.body;
        let all = [
            ("kernex_heartbeat_flush_size_count", 1.0..f64::MAX),
            ("kernex_sessions", 1.0..2.0),
            ("kernex_handshakes_total{result=\"opened\"}", 1.0..f64::MAX),
            (
                "kernex_handshakes_total{result=\"unauthenticated\"}",
                0.0..1.0,
            ),
            ("kernex_push_latency_seconds_count", 1.0..2.0),
            ("kernex_deployments{state=\"finished\"}", 1.0..2.0),
            (
                "kernex_bundle_bytes_total{direction=\"up\"}",
                size..size + 1.0,
            ),
            (
                "kernex_bundle_bytes_total{direction=\"down\"}",
                size..f64::MAX,
            ),
            (
                "kernex_transactions_total{result=\"committed\"}",
                5.0..f64::MAX,
            ),
            ("kernex_connections_open", 2.0..f64::MAX),
            ("kernex_watchers", 0.0..1.0),
        ];
        let shown = all.iter().all(|(series, range)| {
            metric(&scrape, series).is_some_and(|value| range.contains(&value))
        });
        seen(shown, scrape.clone()).map(|_| scrape)
    })
    .await;
    let device = operator.device("edge-of-the-world").await;
    for secret in [&device.name, &device.id, &bundle.digest, &bundle.name] {
        assert!(
            !scrape.contains(secret.as_str()),
            "{secret} is in\n{scrape}"
        );
    }
}

async fn devices_that_drift_are_counted_until_they_settle(database: Database) {
    let (server, http) = TestServer::monitored(database).await;
    let operator = server.operator();
    let agents = [server.agent("edge-1").await, server.agent("edge-2").await];
    let drifted = async |wanted: f64| {
        wait_for(&format!("{wanted} to be counted"), || async {
            let counted = http.metric("kernex_devices_drifted").await;
            seen(counted == Some(wanted), counted)
        })
        .await
    };
    let bundles = [
        operator.push_script("app", "1.0", "true").await,
        operator.push_script("db", "1.0", "true").await,
    ];
    for agent in &agents {
        for bundle in &bundles {
            operator.deploy_and_finish(bundle, &agent.name).await;
        }
    }
    drifted(0.0).await;
    // A device counts once, however much of it drifts.
    for name in ["app", "db"] {
        fs::remove_file(agents[0].state.join("bundles").join(name).join("current")).unwrap();
    }
    operator
        .device_where("edge-1", "to drift in both", |device| {
            device.drifts.len() == 2
        })
        .await;
    drifted(1.0).await;
    for bundle in &bundles {
        operator.deploy_and_finish(bundle, "edge-1").await;
    }
    drifted(0.0).await;
}

async fn a_refused_handshake_and_a_watch_are_counted(database: Database) {
    let (server, http) = TestServer::monitored(database).await;
    let operator = server.operator();
    let mut device = server.raw_device("edge-1").await;
    device.device = kernex_proto::ids::DeviceId::generate();
    assert!(device.try_connect(&server).await.is_err());
    let request = kernex_proto::v1::WatchEventsRequest::default();
    let mut watch = operator
        .events()
        .watch_events(request)
        .await
        .unwrap()
        .into_inner();
    next_message(&mut watch).await.unwrap();
    wait_for("both to be counted", || async {
        let refused = http.metric("kernex_handshakes_total{result=\"unauthenticated\"}");
        let counted = [refused.await, http.metric("kernex_watchers").await];
        seen(counted == [Some(1.0); 2], counted)
    })
    .await;
    drop(watch);
    wait_for("the watch to be gone", || async {
        let watchers = http.metric("kernex_watchers").await;
        seen(watchers == Some(0.0), watchers)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_on_the_dashboard_exists_in_a_scrape() {
    let (_server, http) = TestServer::monitored(Database::Sqlite).await;
    let scrape = http.get("/metrics").await;
    assert_eq!(scrape.status, 200);
    let there: BTreeSet<&str> = scrape.body.lines().filter_map(name_of_series).collect();
    let dashboard = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/grafana/kernex.json");
    let dashboard: Value = serde_json::from_slice(&fs::read(dashboard).unwrap()).unwrap();
    let mut asked = BTreeSet::new();
    queries(&dashboard, &mut asked);
    assert!(asked.len() > 10, "{asked:?}");
    assert!(asked.contains("kernex_devices_drifted"), "{asked:?}");
    let missing: Vec<_> = asked
        .iter()
        .filter(|name| !there.contains(name.as_str()))
        .collect();
    assert!(
        missing.is_empty(),
        "{missing:?} are not in\n{}",
        scrape.body
    );
}

fn name_of_series(line: &str) -> Option<&str> {
    let end = line.find(['{', ' '])?;
    (!line.starts_with('#')).then_some(&line[..end])
}

/// The names of metrics in every query of a dashboard.
fn queries(value: &Value, names: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value.as_str() {
                    Some(text) if key == "expr" || key == "query" => {
                        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                        let ours = words.filter(|word| word.starts_with("kernex_"));
                        names.extend(ours.map(str::to_owned));
                    }
                    _ => queries(value, names),
                }
            }
        }
        Value::Array(values) => {
            for value in values {
                queries(value, names);
            }
        }
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_readiness_probe_fails_while_the_server_drains() {
    let (mut server, http) = TestServer::monitored(Database::Sqlite).await;
    assert_eq!(http.get("/healthz").await.status, 200);
    assert_eq!(http.get("/readyz").await.status, 200);
    let operator = server.operator();
    // An upload that never ends: the server drains until its deadline.
    let upload = operator.try_push_stream(UploadBegin::default(), tokio_stream::pending());
    let staging = server.data().join("bundles/tmp");
    let checks = async {
        wait_for("the upload to begin", || async {
            let files = fs::read_dir(&staging).map(Iterator::count).unwrap_or(0);
            seen(files == 1, files)
        })
        .await;
        server.signal(Signal::TERM);
        wait_for("the server to drain", || async {
            let ready = http.get("/readyz").await;
            let said = (ready.status, ready.body);
            seen(said == (503, "the server is stopping\n".into()), said)
        })
        .await;
        assert_eq!(http.get("/healthz").await.status, 200);
    };
    tokio::select! {
        () = checks => {}
        ended = upload => panic!("the upload ended: {ended:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_other_than_scrapes_are_refused_and_silent_clients_cut_off() {
    let (_server, http) = TestServer::monitored(Database::Sqlite).await;
    let silent = http.send(b"GET /metrics HT").await;
    let unknown = http.get("/etc/passwd").await;
    assert_eq!(unknown.status, 404);
    assert!(unknown.body.contains("/readyz"), "{}", unknown.body);
    let posted = http.request("POST", "/metrics").await;
    assert_eq!(posted.status, 405);
    assert!(posted.head.contains("allow: GET, HEAD"), "{}", posted.head);
    let head = http.request("HEAD", "/metrics").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert!(head.head.contains("version=0.0.4"), "{}", head.head);
    let long = format!("/{}", "x".repeat(1 << 20));
    let long = http.get(&long).await;
    assert!([0, 414, 431].contains(&long.status), "{}", long.status);
    silent.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_metrics_port_in_use_is_reported_in_one_sentence() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let mut serve = kernex_integration_tests::server::command("serve");
    serve
        .env("KERNEX_METRICS_LISTEN", &address)
        .args(["--listen", "127.0.0.1:0"])
        .arg("--data-dir")
        .arg(folder.path().join("data"));
    let output = serve.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(
        said.contains(&address) && said.contains("--metrics-listen"),
        "{said}"
    );
    assert!(!folder.path().join("data").exists(), "nothing was begun");
}
