//! A deployment from its creation to its end, on devices that work.

use std::{fs, time::Duration};

use kernex_integration_tests::{
    AgentOptions, BundleBuilder, Database, ServerOptions, TestServer, both_databases,
    raw_agent::succeeded, wait::next_message,
};
use kernex_proto::v1::{
    AttemptState, BundleFormat, CreateDeploymentRequest, DeploymentResult, DeploymentState,
    ListDeviceHistoryRequest, UploadBegin, WatchDeploymentRequest,
};
use serde_json::json;

both_databases![
    a_deployment_runs_on_its_device_and_its_outcome_is_recorded,
    a_pending_deployment_reaches_a_device_that_connects_later,
    a_pending_deployment_outlives_a_killed_server,
    an_online_device_gets_its_command_at_once,
    the_command_names_the_bundle,
    three_devices_at_once_each_get_one_command,
    the_same_request_again_is_the_same_deployment,
    a_target_that_cannot_be_reached_expires,
    a_watch_shows_a_snapshot_and_the_end_and_events_name_each_step,
];

async fn a_deployment_runs_on_its_device_and_its_outcome_is_recorded(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let agent = server.agent("edge-1").await;
    let archive = BundleBuilder::with_manifest(&json!({
        "name": "hello",
        "version": "1.0",
        "deploy": {"script": "sh run.sh"},
        "env": {"GREETING": "good morning"},
    }))
    .file(
        "run.sh",
        "echo \"$GREETING from $PWD\"; echo made > made-by-script",
    )
    .gzip()
    .await;
    let bundle = operator.push(&archive).await;
    let id = operator.deploy(&bundle, &["edge-1"]).await;
    let deployment = operator.finished(&id).await;
    assert_eq!(deployment.result(), DeploymentResult::Succeeded);
    let counts = deployment.counts.unwrap();
    assert_eq!((counts.total, counts.succeeded), (1, 1));
    assert!(deployment.finished_at.is_some());
    let target = operator.target(&id).await;
    assert_eq!(
        (target.state(), target.attempt),
        (AttemptState::Succeeded, 1)
    );
    assert_eq!(target.exit_code, Some(0));
    assert!(
        target.output_tail.contains("good morning from "),
        "{target:?}"
    );

    assert_eq!(
        agent.current_file("hello", "made-by-script").as_deref(),
        Some("made\n")
    );
    let current = agent.current("hello").unwrap();
    assert!(
        current.starts_with(
            fs::canonicalize(&agent.state)
                .unwrap()
                .join("bundles/hello/releases")
        )
    );
    let device = operator.device("edge-1").await;
    assert_eq!(device.releases.len(), 1);
    assert_eq!(
        (
            device.releases[0].version.as_str(),
            &device.releases[0].digest
        ),
        ("1.0", &bundle.digest)
    );
    let request = ListDeviceHistoryRequest {
        device: "edge-1".into(),
        ..Default::default()
    };
    let history = operator
        .devices()
        .list_device_history(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(history.entries.len(), 1);
    assert_eq!(
        (
            history.entries[0].bundle.as_str(),
            history.entries[0].state.as_str()
        ),
        ("hello:1.0", "succeeded")
    );
    assert_eq!(history.entries[0].deployment_id, id);
}

async fn a_pending_deployment_reaches_a_device_that_connects_later(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut agent = server.agent("edge-1").await;
    agent.stop();
    operator.offline("edge-1").await;
    let bundle = operator.push_script("app", "1.0", "true").await;
    let id = operator.deploy(&bundle, &["edge-1"]).await;
    assert_eq!(operator.target(&id).await.state(), AttemptState::Pending);
    agent.start_again();
    assert_eq!(
        operator.finished(&id).await.result(),
        DeploymentResult::Succeeded
    );
}

async fn a_pending_deployment_outlives_a_killed_server(database: Database) {
    let mut server = TestServer::start(database).await;
    let mut device = server.raw_device("edge-1").await;
    let bundle = server.operator().push_script("app", "1.0", "true").await;
    let id = server.operator().deploy(&bundle, &["edge-1"]).await;
    server.kill();
    server.start_again().await;
    let mut session = device.connect(&server).await;
    let (command, deploy) = session.deploy_command().await;
    assert_eq!(deploy.deployment_id, id);
    session.accept(&command, 1).await;
    session.outcome(&command, 2, succeeded(&deploy)).await;
    server.operator().finished(&id).await;
}

async fn an_online_device_gets_its_command_at_once(database: Database) {
    // Only the push itself can bring the command in time, because no heartbeat is due for an hour.
    let options = ServerOptions::default().env("KERNEX_HEARTBEAT_INTERVAL", "1h");
    let server = TestServer::start_with(database, options).await;
    let operator = server.operator();
    let mut device = server.raw_device("edge-1").await;
    let mut session = device.connect(&server).await;
    operator.online("edge-1").await;
    let bundle = operator.push_script("app", "1.0", "true").await;
    operator.deploy(&bundle, &["edge-1"]).await;
    let pushed = tokio::time::timeout(Duration::from_secs(3), session.command()).await;
    assert!(pushed.is_ok(), "the command came too late");
}

async fn the_command_names_the_bundle(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut device = server.raw_device("edge-1").await;
    let mut session = device.connect(&server).await;
    let archive = BundleBuilder::script("inside", "1.2.3", "true")
        .zstd()
        .await;
    let begin = UploadBegin {
        name: "outside".into(),
        ..Default::default()
    };
    let bundle = operator.try_push_as(&archive, begin).await.unwrap();
    let id = operator.deploy(&bundle, &["edge-1"]).await;
    let (command, deploy) = session.deploy_command().await;
    assert_eq!(
        (deploy.name.as_str(), deploy.version.as_str()),
        ("outside", "1.2.3")
    );
    assert_eq!(
        (&deploy.digest, deploy.size_bytes),
        (&bundle.digest, archive.len() as u64)
    );
    assert_eq!(deploy.format(), BundleFormat::TarZst);
    assert_eq!(deploy.deployment_id, id);
    assert_eq!(command.epoch, session.welcome.epoch);
    assert!(command.remaining_ms > 0);
    let attempt = command.attempt.unwrap();
    assert_eq!(
        (attempt.target_id, attempt.attempt),
        (operator.target(&id).await.id, 1)
    );
}

async fn three_devices_at_once_each_get_one_command(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let witness = server.scratch().join("witness");
    let mut agents = Vec::new();
    for name in ["edge-1", "edge-2", "edge-3"] {
        let options = AgentOptions::named(name).label("ring", "all");
        agents.push(server.agent_with(options).await);
    }
    let script = format!("echo \"$KERNEX_DEVICE_NAME\" >> {}", witness.display());
    let bundle = operator.push_script("app", "1.0", &script).await;
    let id = operator
        .deploy_for(CreateDeploymentRequest {
            bundle: bundle.digest,
            selector: "ring=all".into(),
            ..Default::default()
        })
        .await
        .unwrap();
    let deployment = operator.finished(&id).await;
    assert_eq!(
        deployment.counts.unwrap().succeeded,
        3,
        "{:#?}",
        operator.targets(&id).await
    );
    // Nothing may come after it is finished either: restart everybody and look again.
    for agent in &mut agents {
        agent.stop();
        agent.start_again();
    }
    for agent in &agents {
        operator.online(&agent.name).await;
    }
    let text = fs::read_to_string(&witness).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["edge-1", "edge-2", "edge-3"]);
}

async fn the_same_request_again_is_the_same_deployment(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    server.raw_device("edge-1").await;
    let bundle = operator.push_script("app", "1.0", "true").await;
    let request = CreateDeploymentRequest {
        bundle: bundle.digest,
        device_names: vec!["edge-1".into()],
        request_id: "0199d9e8-0000-4000-8000-000000000001".into(),
        ..Default::default()
    };
    let first = operator.deploy_for(request.clone()).await.unwrap();
    assert_eq!(operator.deploy_for(request.clone()).await.unwrap(), first);
    let other = CreateDeploymentRequest {
        selector: "*".into(),
        ..request
    };
    assert!(
        operator.deploy_for(other).await.is_err(),
        "the same id for another request"
    );
}

async fn a_target_that_cannot_be_reached_expires(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    server.raw_device("edge-1").await;
    let bundle = operator.push_script("app", "1.0", "true").await;
    let id = operator
        .deploy_for(CreateDeploymentRequest {
            bundle: bundle.digest,
            device_names: vec!["edge-1".into()],
            delivery_timeout_seconds: 1,
            ..Default::default()
        })
        .await
        .unwrap();
    let deployment = operator.finished(&id).await;
    assert_eq!(deployment.result(), DeploymentResult::Failed);
    assert_eq!(operator.target(&id).await.state(), AttemptState::Expired);
}

async fn a_watch_shows_a_snapshot_and_the_end_and_events_name_each_step(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut device = server.raw_device("edge-1").await;
    let mut session = device.connect(&server).await;
    let bundle = operator.push_script("app", "1.0", "true").await;
    let id = operator.deploy(&bundle, &["edge-1"]).await;
    let request = WatchDeploymentRequest {
        deployment_id: id.clone(),
    };
    let mut watch = operator
        .deployments()
        .watch_deployment(request)
        .await
        .unwrap()
        .into_inner();
    let snapshot = next_message(&mut watch).await.unwrap().unwrap();
    assert_eq!(snapshot.targets.len(), 1);
    let (command, deploy) = session.deploy_command().await;
    session.accept(&command, 1).await;
    session.outcome(&command, 2, succeeded(&deploy)).await;
    let mut last = snapshot;
    while let Some(change) = next_message(&mut watch).await.unwrap() {
        last = change;
    }
    let deployment = last.deployment.unwrap();
    assert_eq!(
        (deployment.id, deployment.state),
        (id.clone(), DeploymentState::Finished.into())
    );

    let kinds = operator.event_kinds("deployment.finished").await;
    assert!(
        kinds.iter().any(|kind| kind == "device.online"),
        "{kinds:?}"
    );
    assert!(
        kinds.iter().any(|kind| kind == "attempt.succeeded"),
        "{kinds:?}"
    );
}
