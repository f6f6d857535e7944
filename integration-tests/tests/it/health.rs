//! Health checks and deferred pre hooks, from the operator's command to the state on the server.

use std::{fs, time::Duration};

use kernex_integration_tests::{Ctl, Database, TestServer, both_databases, wait::seen, wait_for};
use kernex_proto::v1::{AttemptState, CreateDeploymentRequest, FailureReason, Step};
use serde_json::json;

both_databases![
    a_release_succeeds_after_it_held_its_health,
    an_agent_killed_during_health_goes_back_and_reports_it,
    a_deferred_pre_hook_is_run_again_and_each_run_runs_once,
    a_deferred_device_says_what_it_waits_for_and_until_when,
    a_pre_hook_that_defers_forever_ends_with_the_execution_time,
];

async fn a_release_succeeds_after_it_held_its_health(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let agent = server.agent("edge-1").await;
    let gate = server.scratch().join("healthy");
    let health = json!({
        "command": format!("test -e {}", gate.display()),
        "interval_seconds": 1, "retries": 1000, "hold_seconds": 1,
    });
    let bundle = operator
        .push_manifest(&json!({"name": "app", "version": "1.0", "health": health}))
        .await;
    let id = operator.deploy(&bundle, &["edge-1"]).await;
    wait_for("the target to be in its health check", || async {
        let target = operator.target(&id).await;
        seen(
            target
                .progress
                .as_ref()
                .is_some_and(|now| now.step() == Step::Health),
            target,
        )
    })
    .await;
    assert!(
        agent.current("app").is_some(),
        "the release is current while it is watched"
    );
    fs::write(&gate, "").unwrap();
    operator.finished(&id).await;
    let target = operator.target(&id).await;
    assert_eq!(target.state(), AttemptState::Succeeded, "{target:?}");
}

async fn an_agent_killed_during_health_goes_back_and_reports_it(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut agent = server.agent("edge-1").await;
    let good = operator.push_script("app", "1.0", "true").await;
    operator.deploy_and_finish(&good, "edge-1").await;
    let health = json!({"command": "true", "interval_seconds": 1, "hold_seconds": 3600});
    let bad = operator
        .push_manifest(&json!({"name": "app", "version": "2.0", "health": health}))
        .await;
    let id = operator.deploy(&bad, &["edge-1"]).await;
    wait_for("the target to be in its health check", || async {
        let target = operator.target(&id).await;
        seen(
            target
                .progress
                .as_ref()
                .is_some_and(|now| now.step() == Step::Health),
            target,
        )
    })
    .await;
    agent.kill();
    agent.start_again();
    operator.finished(&id).await;
    let target = operator.target(&id).await;
    assert_eq!(target.reason(), FailureReason::Interrupted, "{target:?}");
    assert!(target.message.ends_with("; went back to 1.0"), "{target:?}");
    assert_eq!(
        operator.device("edge-1").await.releases[0].digest,
        good.digest
    );
}

async fn a_deferred_pre_hook_is_run_again_and_each_run_runs_once(database: Database) {
    let mut server = TestServer::start(database).await;
    let operator = server.operator();
    let mut agent = server.agent("edge-1").await;
    let lines = server.scratch().join("runs");
    let pre = format!(
        "echo $KERNEX_RUN >> {}; test $KERNEX_RUN -ge 3 || exit 75",
        lines.display()
    );
    let bundle = operator
        .push_manifest(&json!({
            "name": "app", "version": "1.0", "hooks": {"pre": pre, "retry_seconds": 2},
        }))
        .await;
    let id = operator.deploy(&bundle, &["edge-1"]).await;
    let runs = || fs::read_to_string(&lines).unwrap_or_default();
    wait_for("the first run to be over", || async {
        let log = agent.process().log();
        seen(log.contains("asks to be run again later"), log)
    })
    .await;
    // Neither side may forget it, nor grant a run twice.
    server.kill();
    agent.kill();
    server.start_again().await;
    agent.start_again();
    let operator = server.operator();
    operator.finished(&id).await;
    let target = operator.target(&id).await;
    assert_eq!(target.state(), AttemptState::Succeeded, "{target:?}");
    assert_eq!(runs(), "1\n2\n3\n");
}

async fn a_deferred_device_says_what_it_waits_for_and_until_when(database: Database) {
    const PAUSE: Duration = Duration::from_secs(6);
    let server = TestServer::start(database).await;
    let (operator, ctl) = (server.operator(), Ctl::on(&server));
    let _agent = server.agent("edge-1").await;
    let lines = server.scratch().join("runs");
    let pre = format!(
        "date +%s%3N >> {}; echo 3 players online; test $KERNEX_RUN -ge 2 || exit 75",
        lines.display()
    );
    let bundle = operator
        .push_manifest(&json!({
            "name": "app", "version": "1.0",
            "hooks": {"pre": pre, "retry_seconds": PAUSE.as_secs()},
        }))
        .await;
    let id = operator.deploy(&bundle, &["edge-1"]).await;
    let target = operator.target_in(&id, &[AttemptState::Deferred]).await;
    let deferral = target.deferral.unwrap();
    assert_eq!(
        (deferral.message.as_str(), deferral.run),
        ("3 players online", 2)
    );
    let shown = ctl.ok(&["deployment", "get", &id]);
    for said in ["deferred", "3 players online, again in"] {
        assert!(shown.contains(said), "{said}: {shown}");
    }
    operator.finished(&id).await;
    let target = operator.target(&id).await;
    assert_eq!(target.state(), AttemptState::Succeeded, "{target:?}");
    assert_eq!(target.deferral, None);
    let runs = fs::read_to_string(&lines).unwrap();
    let runs: Vec<u64> = runs.lines().map(|line| line.parse().unwrap()).collect();
    let until = deferral.until.unwrap();
    let until = u64::try_from(until.seconds).unwrap() * 1000;
    let waited = Duration::from_millis(runs[1].saturating_sub(until));
    // A server that only looks every five seconds would be too late; a busy machine is not.
    assert!(
        waited < Duration::from_secs(4),
        "{waited:?} after its moment"
    );
    assert!(
        runs[1] - runs[0] >= 5_900,
        "not before its moment: {runs:?}"
    );
}

async fn a_pre_hook_that_defers_forever_ends_with_the_execution_time(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let agent = server.agent("edge-1").await;
    let lines = server.scratch().join("runs");
    let pre = format!("echo $KERNEX_RUN >> {}; exit 75", lines.display());
    let bundle = operator
        .push_manifest(&json!({
            "name": "app", "version": "1.0", "hooks": {"pre": pre, "retry_seconds": 1},
        }))
        .await;
    let id = operator
        .deploy_for(CreateDeploymentRequest {
            bundle: bundle.digest.clone(),
            device_names: vec!["edge-1".into()],
            execution_timeout_seconds: 10,
            ..Default::default()
        })
        .await
        .unwrap();
    operator.finished(&id).await;
    let target = operator.target(&id).await;
    assert_eq!(target.state(), AttemptState::Expired, "{target:?}");
    let runs = fs::read_to_string(&lines).unwrap();
    assert!(runs.starts_with("1\n2\n"), "it was asked again: {runs:?}");
    assert_eq!(agent.current("app"), None);
}
