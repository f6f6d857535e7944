//! A device that goes back by itself after a failure: what it runs, what it reports, and what
//! survives a restart that a script asked for.

use std::fs;

use kernex_integration_tests::{Database, TestServer, both_databases, wait::seen, wait_for};
use kernex_proto::v1::{AttemptState, CreateDeploymentRequest, FailureReason, Step};
use serde_json::json;

both_databases![
    a_failed_release_goes_back_and_server_and_device_agree,
    a_failed_rollback_reports_both_failures,
    an_agent_that_replaces_itself_continues_with_health,
    going_back_to_an_agent_that_replaces_itself_continues_with_health,
    a_device_back_after_its_execution_time_is_stopped_before_it_goes_on,
    a_machine_that_stops_right_after_exit_75_continues,
];

async fn a_failed_release_goes_back_and_server_and_device_agree(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let agent = server.agent("edge-1").await;
    let lines = server.scratch().join("lines");
    let says = |word: &str| format!("echo {word} $KERNEX_BUNDLE_VERSION >> {}", lines.display());
    let good = json!({
        "name": "app", "version": "1.0",
        "deploy": {"script": says("deploy")}, "rollback": {"script": says("rollback")},
    });
    let good = operator.push_manifest(&good).await;
    operator.deploy_and_finish(&good, "edge-1").await;
    let bad = json!({
        "name": "app", "version": "2.0",
        "deploy": {"script": says("deploy")},
        "health": {"tcp": format!("127.0.0.1:{}", kernex_integration_tests::server::free_port()), "retries": 0},
    });
    let bad = operator.push_manifest(&bad).await;
    let target = operator.deploy_and_finish(&bad, "edge-1").await;
    assert_eq!(target.reason(), FailureReason::HealthCheck, "{target:?}");
    assert!(target.message.ends_with("; went back to 1.0"), "{target:?}");
    assert_eq!(
        fs::read_to_string(&lines).unwrap(),
        "deploy 1.0\ndeploy 2.0\nrollback 1.0\n"
    );
    let device = operator.device("edge-1").await;
    assert_eq!(device.releases[0].digest, good.digest, "{device:?}");
    assert!(
        agent
            .current_file("app", "manifest.json")
            .unwrap()
            .contains("1.0")
    );
}

async fn a_failed_rollback_reports_both_failures(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let _agent = server.agent("edge-1").await;
    let good = json!({"name": "app", "version": "1.0", "rollback": {"script": "exit 9"}});
    let good = operator.push_manifest(&good).await;
    operator.deploy_and_finish(&good, "edge-1").await;
    let bad = json!({"name": "app", "version": "2.0", "hooks": {"post": "exit 8"}});
    let bad = operator.push_manifest(&bad).await;
    let target = operator.deploy_and_finish(&bad, "edge-1").await;
    assert_eq!(target.reason(), FailureReason::RollbackFailed, "{target:?}");
    assert!(
        target.message.contains("hooks.post exited with 8"),
        "{target:?}"
    );
    assert!(
        target.message.contains("rollback.script exited with 9"),
        "{target:?}"
    );
}

async fn an_agent_that_replaces_itself_continues_with_health(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut agent = server.agent("edge-1").await;
    let bundle = operator
        .push_manifest(&json!({
            "name": "agent", "version": "2.0", "restart": "expected",
            "deploy": {"script": "kill $KERNEX_AGENT_PID; exit 75"},
            "health": {"command": "echo well"},
        }))
        .await;
    let id = operator.deploy(&bundle, &["edge-1"]).await;
    assert!(
        agent.ended_within(kernex_integration_tests::wait::LIMIT),
        "the agent did not stop"
    );
    agent.start_again();
    operator.finished(&id).await;
    let target = operator.target(&id).await;
    assert_eq!(target.state(), AttemptState::Succeeded, "{target:?}");
    assert_eq!(target.output_tail, "well\n");
    assert_eq!(
        target.progress.map_or(Step::Health, |now| now.step()),
        Step::Health
    );
    assert!(agent.current("agent").is_some());
}

async fn going_back_to_an_agent_that_replaces_itself_continues_with_health(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut agent = server.agent("edge-1").await;
    let lines = server.scratch().join("lines");
    let says = |word: &str| format!("echo {word} $KERNEX_STEP >> {}", lines.display());
    let good = json!({
        "name": "agent", "version": "1.0", "restart": "expected",
        "deploy": {"script": format!("{}; test $KERNEX_STEP = script || {{ kill $KERNEX_AGENT_PID; exit 75; }}", says("script"))},
        "health": {"command": says("health")},
    });
    let good = operator.push_manifest(&good).await;
    operator.deploy_and_finish(&good, "edge-1").await;
    fs::remove_file(&lines).unwrap();
    let bad = json!({"name": "agent", "version": "2.0", "hooks": {"post": "exit 8"}});
    let bad = operator.push_manifest(&bad).await;
    let id = operator.deploy(&bad, &["edge-1"]).await;
    assert!(
        agent.ended_within(kernex_integration_tests::wait::LIMIT),
        "the agent did not stop"
    );
    let target = operator.target(&id).await;
    // The progress report may have been lost when the agent stopped.
    assert!(
        matches!(
            target.state(),
            AttemptState::Accepted | AttemptState::Running
        ),
        "{target:?}"
    );
    agent.start_again();
    operator.finished(&id).await;
    let target = operator.target(&id).await;
    assert_eq!(
        (target.reason(), target.message.as_str()),
        (
            FailureReason::ScriptFailed,
            "hooks.post exited with 8; went back to 1.0"
        )
    );
    assert_eq!(
        fs::read_to_string(&lines).unwrap(),
        "script rollback\nhealth health\n"
    );
    assert_eq!(
        operator.device("edge-1").await.releases[0].digest,
        good.digest
    );
}

async fn a_device_back_after_its_execution_time_is_stopped_before_it_goes_on(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut agent = server.agent("edge-1").await;
    let good = operator.push_script("app", "1.0", "true").await;
    operator.deploy_and_finish(&good, "edge-1").await;
    let well = server.scratch().join("well");
    let late = json!({
        "name": "app", "version": "2.0", "restart": "expected",
        "deploy": {"script": "kill $KERNEX_AGENT_PID; exit 75"},
        "health": {"command": format!("echo well > {}", well.display())},
    });
    let late = operator.push_manifest(&late).await;
    let id = operator
        .deploy_for(CreateDeploymentRequest {
            bundle: late.digest.clone(),
            device_names: vec!["edge-1".into()],
            execution_timeout_seconds: 15,
            ..Default::default()
        })
        .await
        .unwrap();
    assert!(
        agent.ended_within(kernex_integration_tests::wait::LIMIT),
        "the agent did not stop"
    );
    operator.target_in(&id, &[AttemptState::Expired]).await;
    agent.start_again();
    wait_for("the device to say how it ended", || async {
        let target = operator.target(&id).await;
        seen(target.late_outcome, target)
    })
    .await;
    assert!(!well.exists(), "it went on");
    assert!(
        agent
            .current_file("app", "manifest.json")
            .unwrap()
            .contains("1.0")
    );
    assert_eq!(
        operator.device("edge-1").await.releases[0].digest,
        good.digest
    );
}

async fn a_machine_that_stops_right_after_exit_75_continues(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut agent = server.agent("edge-1").await;
    let bundle = operator
        .push_manifest(&json!({
            "name": "app", "version": "2.0", "restart": "expected", "deploy": {"script": "exit 75"},
        }))
        .await;
    let id = operator.deploy(&bundle, &["edge-1"]).await;
    wait_for("the release to be current", || async {
        let current = agent.current("app");
        seen(current.is_some(), current)
    })
    .await;
    agent.kill();
    agent.start_again();
    operator.finished(&id).await;
    let target = operator.target(&id).await;
    assert_eq!(target.state(), AttemptState::Succeeded, "{target:?}");
}
