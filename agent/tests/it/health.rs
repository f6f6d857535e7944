//! Health checks: probes, their consequences, and crashes in the middle.

use std::time::Duration;

use kernex_proto::v1::{AttemptState, FailureReason, Step};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::{bench::Bench, session::attempt};

#[tokio::test]
async fn a_release_may_fail_probes_before_it_becomes_healthy() {
    let (bench, mut session) = Bench::connected().await;
    let witness = bench.witness().display().to_string();
    let probe = format!("echo $KERNEX_STEP >> {witness}; test $(wc -l < {witness}) -ge 3");
    let bundle = bench.serve(&json!({
        "version": "1",
        "health": {"command": probe, "interval_seconds": 1, "retries": 2, "hold_seconds": 1},
    }));
    let outcome = session.deployed(&bundle).await;
    assert_eq!(outcome.state(), AttemptState::Succeeded, "{outcome:?}");
    // Two that fail, the first that succeeds, and the one at the end of the hold.
    assert_eq!(bench.witnessed(), "health\n".repeat(4));
}

#[tokio::test]
async fn an_unhealthy_release_goes_back_and_the_outcome_says_both() {
    let (bench, mut session) = Bench::connected().await;
    let good = bench.serve(&json!({"version": "good"}));
    session.deployed(&good).await;
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    for health in [
        json!({"tcp": closed.to_string(), "retries": 0}),
        json!({"http": format!("http://{closed}/"), "retries": 0}),
        json!({"command": "echo not well; exit 3", "retries": 0}),
        json!({"command": "sleep 1000", "timeout_seconds": 1, "retries": 0}),
    ] {
        let bad = bench.serve(&json!({"version": "bad", "health": health}));
        let outcome = session.deployed(&bad).await;
        assert_eq!(outcome.reason(), FailureReason::HealthCheck, "{outcome:?}");
        assert!(
            outcome.message.starts_with("health: 1 probes failed"),
            "{outcome:?}"
        );
        assert!(
            outcome.message.ends_with("; went back to good"),
            "{outcome:?}"
        );
        assert_eq!(outcome.active.unwrap().digest, good.digest.to_string());
        assert_eq!(bench.current().as_deref(), Some("good"));
        assert_eq!(bench.list("bundles/app/releases").len(), 1);
    }
}

#[tokio::test]
async fn an_http_probe_asks_the_release_itself() {
    let (bench, mut session) = Bench::connected().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tasks = tokio_util::task::TaskTracker::new();
    tasks.spawn(async move {
        for answer in ["503 Not yet", "200 OK"] {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await.unwrap();
            let answer = format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let health =
        json!({"http": format!("http://{address}/health"), "interval_seconds": 1, "retries": 1});
    let bundle = bench.serve(&json!({"version": "1", "health": health}));
    let outcome = session.deployed(&bundle).await;
    assert_eq!(outcome.state(), AttemptState::Succeeded, "{outcome:?}");
}

#[tokio::test]
async fn a_crash_during_health_goes_back_before_it_reports() {
    let (mut bench, mut session) = Bench::connected().await;
    let good = bench.serve(&json!({"version": "good"}));
    session.deployed(&good).await;
    let health = json!({"command": "true", "interval_seconds": 1, "hold_seconds": 1000});
    let bad = bench.serve(&json!({"version": "bad", "health": health}));
    session.deploy(&attempt(), &bad).await;
    session.step(Step::Health).await;
    assert_eq!(bench.current().as_deref(), Some("bad"));
    bench.crash().await;
    let mut session = bench.start().await;
    assert_eq!(bench.current().as_deref(), Some("good"));
    let (_, outcome) = session.outcome().await;
    assert_eq!(outcome.reason(), FailureReason::Interrupted, "{outcome:?}");
    assert!(
        outcome
            .message
            .contains("the step health; went back to good"),
        "{outcome:?}"
    );
    assert_eq!(outcome.active.unwrap().digest, good.digest.to_string());
}

#[tokio::test]
async fn the_execution_time_ends_a_check_that_never_ends() {
    let (bench, mut session) = Bench::connected().await;
    let health = json!({"command": "true", "interval_seconds": 1, "hold_seconds": 1000});
    let bundle = bench.serve(&json!({"version": "1", "health": health}));
    let execution = Duration::from_secs(3);
    session.deploy_within(&attempt(), &bundle, execution).await;
    let (_, outcome) = session.outcome().await;
    assert_eq!(outcome.reason(), FailureReason::HealthCheck, "{outcome:?}");
    assert!(
        outcome.message.contains("within the execution time"),
        "{outcome:?}"
    );
    assert!(
        outcome.message.contains("no release to go back to"),
        "{outcome:?}"
    );
    assert_eq!((outcome.active, bench.current()), (None, None));
}

#[tokio::test]
async fn a_stop_during_health_goes_back() {
    let (bench, mut session) = Bench::connected().await;
    let health = json!({"command": "sleep 1000", "timeout_seconds": 1000});
    let bundle = bench.serve(&json!({"version": "1", "health": health}));
    let id = attempt();
    session.deploy(&id, &bundle).await;
    session.step(Step::Health).await;
    session.stop(&id).await;
    let (_, outcome) = session.outcome().await;
    assert_eq!(outcome.state(), AttemptState::Cancelled, "{outcome:?}");
    assert_eq!(bench.current(), None);
}
