//! `deployment rollback`: which release each device returns to, what it needs for that, and which
//! devices stay as they are.

use std::fs;

use kernex_integration_tests::{
    Ctl, Database, Operator, TestServer, both_databases, wait::seen, wait_for,
};
use kernex_proto::v1::{AttemptState, Bundle, DeploymentResult, RollbackVerdict, Target};

async fn version(operator: &Operator, version: &str) -> Bundle {
    let script = "echo deploy $KERNEX_BUNDLE_VERSION";
    operator.push_script("app", version, script).await
}

async fn by_device(operator: &Operator, id: &str) -> Vec<Target> {
    let mut targets = operator.targets(id).await;
    targets.sort_by(|a, b| a.device_name.cmp(&b.device_name));
    targets
}

both_databases![
    a_rollback_returns_each_device_to_its_previous_release_without_download,
    a_rollback_downloads_a_release_that_is_gone,
    a_rollback_stops_its_deployment_first,
    an_impossible_rollback_is_refused_with_its_reason,
    kernexctl_rolls_back_watches_and_shows_the_history,
];

async fn a_rollback_returns_each_device_to_its_previous_release_without_download(
    database: Database,
) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let agents = [
        server.agent("edge-1").await,
        server.agent("edge-2").await,
        server.agent("edge-3").await,
    ];
    let (old, other, bad) = (
        version(&operator, "1.0").await,
        version(&operator, "1.1").await,
        version(&operator, "2.0").await,
    );
    operator.deploy_and_finish(&old, "edge-1").await;
    operator.deploy_and_finish(&other, "edge-2").await;
    let deployed = operator.deploy(&bad, &["edge-1", "edge-2", "edge-3"]).await;
    assert_eq!(
        operator.finished(&deployed).await.result(),
        DeploymentResult::Succeeded
    );
    // Nothing can be downloaded any more.
    for bundle in [&old, &other] {
        fs::remove_file(server.blob(&bundle.digest)).unwrap();
    }
    let answer = operator.roll_back(&deployed).await.unwrap();
    let verdicts: Vec<_> = answer
        .steps
        .iter()
        .map(|step| {
            (
                step.device_name.as_str(),
                step.verdict(),
                step.bundle.as_str(),
            )
        })
        .collect();
    assert_eq!(
        verdicts,
        [
            ("edge-1", RollbackVerdict::GoBack, "app:1.0"),
            ("edge-2", RollbackVerdict::GoBack, "app:1.1"),
            ("edge-3", RollbackVerdict::NoPrevious, ""),
        ]
    );
    let back = answer.deployment.unwrap();
    assert_eq!(
        (
            back.rolls_back.as_str(),
            back.bundle.as_str(),
            back.digest.as_str()
        ),
        (deployed.as_str(), "app", "")
    );
    assert_eq!(
        operator.finished(&back.id).await.result(),
        DeploymentResult::Succeeded
    );
    let targets = by_device(&operator, &back.id).await;
    assert_eq!(
        targets
            .iter()
            .map(|target| target.bundle.as_str())
            .collect::<Vec<_>>(),
        ["app:1.0", "app:1.1"]
    );
    assert_eq!(targets[0].output_tail, "deploy 1.0\n");
    for (agent, wanted) in agents.iter().zip(["1.0", "1.1", "2.0"]) {
        assert!(
            agent
                .current_file("app", "manifest.json")
                .unwrap()
                .contains(wanted),
            "{}",
            agent.name
        );
        assert_eq!(
            operator.device(&agent.name).await.releases[0].version,
            wanted
        );
    }
    // A rollback is a deployment: it is taken back like any other.
    let forth = operator
        .roll_back(&back.id)
        .await
        .unwrap()
        .deployment
        .unwrap();
    operator.finished(&forth.id).await;
    assert_eq!(operator.device("edge-2").await.releases[0].version, "2.0");
}

async fn a_rollback_downloads_a_release_that_is_gone(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let agent = server.agent("edge-1").await;
    let (old, bad) = (
        version(&operator, "1.0").await,
        version(&operator, "2.0").await,
    );
    operator.deploy_and_finish(&old, "edge-1").await;
    let deployed = operator.deploy(&bad, &["edge-1"]).await;
    operator.finished(&deployed).await;
    let current = agent.current("app").unwrap();
    for release in agent.releases("app") {
        if fs::canonicalize(&release).unwrap() != current {
            fs::remove_dir_all(release).unwrap();
        }
    }
    fs::remove_dir_all(agent.state.join("bundles/app/archives")).unwrap();
    let back = operator
        .roll_back(&deployed)
        .await
        .unwrap()
        .deployment
        .unwrap();
    assert_eq!(back.bundle, "app:1.0");
    operator.finished(&back.id).await;
    assert_eq!(
        operator.target(&back.id).await.state(),
        AttemptState::Succeeded
    );
    assert!(
        agent
            .current_file("app", "manifest.json")
            .unwrap()
            .contains("1.0")
    );
}

async fn a_rollback_stops_its_deployment_first(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let agents = [server.agent("edge-1").await, server.agent("edge-2").await];
    let old = version(&operator, "1.0").await;
    for agent in &agents {
        operator.deploy_and_finish(&old, &agent.name).await;
    }
    let script = r#"test "$KERNEX_DEVICE_NAME" = edge-1 || sleep 3600"#;
    let bad = operator.push_script("app", "2.0", script).await;
    let deployed = operator.deploy(&bad, &["edge-1", "edge-2"]).await;
    wait_for("one to be done and one to be at work", || async {
        let targets = by_device(&operator, &deployed).await;
        seen(
            targets[0].state() == AttemptState::Succeeded
                && targets[1]
                    .progress
                    .as_ref()
                    .is_some_and(|now| now.step() == kernex_proto::v1::Step::Script),
            targets,
        )
    })
    .await;
    let answer = operator.roll_back(&deployed).await.unwrap();
    assert!(
        answer
            .steps
            .iter()
            .all(|step| step.verdict() == RollbackVerdict::GoBack),
        "{:?}",
        answer.steps
    );
    let back = operator.finished(&answer.deployment.unwrap().id).await;
    assert_eq!(back.result(), DeploymentResult::Succeeded);
    assert_eq!(
        operator.finished(&deployed).await.result(),
        DeploymentResult::Cancelled
    );
    for agent in &agents {
        assert!(
            agent
                .current_file("app", "manifest.json")
                .unwrap()
                .contains("1.0"),
            "{}",
            agent.name
        );
    }
}

async fn an_impossible_rollback_is_refused_with_its_reason(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let ctl = Ctl::on(&server);
    let _agents = [server.agent("edge-1").await, server.agent("edge-2").await];
    let old = version(&operator, "1.0").await;
    operator.deploy_and_finish(&old, "edge-1").await;
    let failing = operator.push_script("app", "2.0", "exit 3").await;
    let deployed = operator.deploy(&failing, &["edge-1", "edge-2"]).await;
    operator.finished(&deployed).await;
    let refused = ctl.run(&["deployment", "rollback", &deployed, "--yes"]);
    assert_eq!(refused.code, Some(5), "{}", refused.stderr);
    assert!(
        refused
            .stderr
            .contains("edge-1, edge-2: never ran the bundle successfully"),
        "{}",
        refused.stderr
    );
    let planned = ctl.run(&["deployment", "rollback", &deployed, "--plan"]);
    assert_eq!(planned.code, Some(5), "{}", planned.stderr);
    assert!(planned.stdout.contains("never_ran"), "{}", planned.stdout);
    let unknown = ctl.run(&[
        "deployment",
        "rollback",
        "0190a000-0000-7000-8000-000000000001",
        "--yes",
    ]);
    assert_eq!(unknown.code, Some(5), "{}", unknown.stderr);
}

async fn kernexctl_rolls_back_watches_and_shows_the_history(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let ctl = Ctl::on(&server);
    let _agent = server.agent("edge-1").await;
    let (old, bad) = (
        version(&operator, "1.0").await,
        version(&operator, "2.0").await,
    );
    operator.deploy_and_finish(&old, "edge-1").await;
    let deployed = operator.deploy(&bad, &["edge-1"]).await;
    operator.finished(&deployed).await;
    let kept = ctl.run(&["bundle", "delete", "app:1.0", "--yes"]);
    assert_eq!(kept.code, Some(5), "{}", kept.stderr);
    assert!(kept.stderr.contains("may go back to it"), "{}", kept.stderr);
    let planned = ctl.json(&["deployment", "rollback", &deployed, "--plan"]);
    assert_eq!(
        (
            planned[0]["verdict"].as_str(),
            planned[0]["bundle"].as_str()
        ),
        (Some("go_back"), Some("app:1.0"))
    );
    let _ = ctl.ok(&["deployment", "rollback", &deployed, "--yes", "--watch"]);
    let history = ctl.json(&["device", "history", "edge-1"]);
    let told: Vec<_> = history
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            (
                entry["bundle"].as_str().unwrap(),
                entry["rolls_back"].as_str().unwrap(),
                entry["active_version"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            ("app:1.0", deployed.as_str(), "1.0"),
            ("app:2.0", "", "2.0"),
            ("app:1.0", "", "1.0")
        ]
    );
    let table = ctl.ok(&["device", "history", "edge-1"]);
    assert!(table.contains("rollback"), "{table}");
}
