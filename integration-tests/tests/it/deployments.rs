//! A deployment from its creation to its end, on devices that work.

use std::{fs, time::Duration};

use kernex_integration_tests::{
    AgentOptions, BundleBuilder, Database, ServerOptions, TestServer, both_databases,
    raw_agent::succeeded,
};
use kernex_proto::v1::{
    AttemptState, BundleFormat, CancelDeploymentRequest, CreateDeploymentRequest, DeploymentResult,
    DeploymentState, Disposition, ListDeviceHistoryRequest, UploadBegin, WatchDeploymentRequest,
    WatchEventsRequest, command,
};
use serde_json::json;
use tonic::Code;

both_databases![
    a_deployment_runs_on_its_device_and_its_outcome_is_recorded,
    a_pending_deployment_reaches_a_device_that_connects_later,
    a_pending_deployment_outlives_a_killed_server,
    an_online_device_gets_its_command_at_once,
    the_command_names_the_bundle,
    three_devices_at_once_each_get_one_command,
    a_newer_deployment_supersedes_one_that_has_not_begun,
    a_newer_deployment_waits_for_an_attempt_that_was_just_pushed,
    cancelling_closes_targets_that_have_not_begun_at_once,
    a_stop_reaches_a_device_that_was_offline,
    targets_are_chosen_by_id_name_and_label,
    the_same_request_again_is_the_same_deployment,
    a_target_that_cannot_be_reached_expires,
    watchers_see_a_snapshot_every_change_and_the_end,
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
    let bundle = operator
        .push(&BundleBuilder::script("app", "1.0", "true").gzip().await)
        .await;
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
    let bundle = server
        .operator()
        .push(&BundleBuilder::script("app", "1.0", "true").gzip().await)
        .await;
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
    // Nothing but the push itself can bring the command in time: no heartbeat is due for an
    // hour.
    let options = ServerOptions::default().env("KERNEX_HEARTBEAT_INTERVAL", "1h");
    let server = TestServer::start_with(database, options).await;
    let operator = server.operator();
    let mut device = server.raw_device("edge-1").await;
    let mut session = device.connect(&server).await;
    operator.online("edge-1").await;
    let bundle = operator
        .push(&BundleBuilder::script("app", "1.0", "true").gzip().await)
        .await;
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
    let bundle = operator
        .push(&BundleBuilder::script("app", "1.0", &script).gzip().await)
        .await;
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

async fn a_newer_deployment_supersedes_one_that_has_not_begun(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut device = server.raw_device("edge-1").await;
    let old = operator
        .push(&BundleBuilder::script("app", "1.0", "true").gzip().await)
        .await;
    let new = operator
        .push(&BundleBuilder::script("app", "2.0", "true").gzip().await)
        .await;
    let other = operator
        .push(&BundleBuilder::script("other", "1.0", "true").gzip().await)
        .await;
    let first = operator.deploy(&old, &["edge-1"]).await;
    operator.deploy(&other, &["edge-1"]).await;
    operator.deploy(&new, &["edge-1"]).await;
    assert_eq!(
        operator.target(&first).await.state(),
        AttemptState::Superseded
    );
    assert_eq!(
        operator.deployment(&first).await.state(),
        DeploymentState::Finished
    );
    let mut session = device.connect(&server).await;
    let mut told = [
        session.deploy_command().await.1,
        session.deploy_command().await.1,
    ]
    .map(|deploy| format!("{}:{}", deploy.name, deploy.version));
    told.sort_unstable();
    assert_eq!(
        told,
        ["app:2.0", "other:1.0"],
        "names are independent of each other"
    );
}

async fn a_newer_deployment_waits_for_an_attempt_that_was_just_pushed(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut device = server.raw_device("edge-1").await;
    let old = operator
        .push(&BundleBuilder::script("app", "1.0", "true").gzip().await)
        .await;
    let new = operator
        .push(&BundleBuilder::script("app", "2.0", "true").gzip().await)
        .await;
    let mut session = device.connect(&server).await;
    let first = operator.deploy(&old, &["edge-1"]).await;
    let (command, deploy) = session.deploy_command().await;
    // It has not answered, and that it was pushed need not be written yet.
    operator.deploy(&new, &["edge-1"]).await;
    assert_eq!(operator.target(&first).await.state(), AttemptState::Sent);
    session.accept(&command, 1).await;
    assert_eq!(
        session.outcome(&command, 2, succeeded(&deploy)).await,
        Disposition::Applied
    );
    assert_eq!(
        session.deploy_command().await.1.version,
        "2.0",
        "it waited for its turn"
    );
    assert_eq!(
        operator.target(&first).await.state(),
        AttemptState::Succeeded
    );
}

async fn cancelling_closes_targets_that_have_not_begun_at_once(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    server.raw_device("edge-1").await;
    let bundle = operator
        .push(&BundleBuilder::script("app", "1.0", "true").gzip().await)
        .await;
    let id = operator.deploy(&bundle, &["edge-1"]).await;
    let request = CancelDeploymentRequest {
        deployment_id: id.clone(),
        ..Default::default()
    };
    operator
        .deployments()
        .cancel_deployment(request.clone())
        .await
        .unwrap();
    let deployment = operator.finished(&id).await;
    assert_eq!(deployment.result(), DeploymentResult::Cancelled);
    assert_eq!(operator.target(&id).await.state(), AttemptState::Cancelled);
    let again = operator
        .deployments()
        .cancel_deployment(request)
        .await
        .unwrap_err();
    assert_eq!(again.code(), Code::FailedPrecondition);
}

async fn a_stop_reaches_a_device_that_was_offline(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut device = server.raw_device("edge-1").await;
    let bundle = operator
        .push(&BundleBuilder::script("app", "1.0", "true").gzip().await)
        .await;
    let id = operator.deploy(&bundle, &["edge-1"]).await;
    let mut session = device.connect(&server).await;
    let (command, _) = session.deploy_command().await;
    session.accept(&command, 1).await;
    drop(session);
    operator.offline("edge-1").await;
    let request = CancelDeploymentRequest {
        deployment_id: id.clone(),
        ..Default::default()
    };
    operator
        .deployments()
        .cancel_deployment(request)
        .await
        .unwrap();
    assert_eq!(
        operator.deployment(&id).await.state(),
        DeploymentState::Stopping
    );
    assert!(operator.target(&id).await.stop_requested);
    let mut session = device
        .connect_holding(&server, &command, AttemptState::Accepted)
        .await;
    let stop = session.command().await;
    assert!(
        matches!(stop.action, Some(command::Action::Stop(_))),
        "{stop:?}"
    );
    assert_eq!(stop.attempt, command.attempt);
}

async fn targets_are_chosen_by_id_name_and_label(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let one = server.raw_device("edge-1").await;
    server.raw_device("edge-2").await;
    server.raw_device("edge-3").await;
    let bundle = operator
        .push(&BundleBuilder::script("app", "1.0", "true").gzip().await)
        .await
        .digest;
    let id = operator
        .deploy_for(CreateDeploymentRequest {
            bundle: bundle.clone(),
            device_ids: vec![one.device.to_string()],
            device_names: vec!["edge-2".into(), "edge-1".into()],
            ..Default::default()
        })
        .await
        .unwrap();
    let mut names: Vec<String> = operator
        .targets(&id)
        .await
        .into_iter()
        .map(|target| target.device_name)
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["edge-1", "edge-2"], "the union, each once");

    let everyone = CreateDeploymentRequest {
        bundle: bundle.clone(),
        selector: "*".into(),
        ..Default::default()
    };
    let id = operator.deploy_for(everyone).await.unwrap();
    assert_eq!(operator.targets(&id).await.len(), 3);

    let base = CreateDeploymentRequest {
        bundle,
        ..Default::default()
    };
    for (request, code) in [
        (base.clone(), Code::InvalidArgument),
        (
            CreateDeploymentRequest {
                selector: "site=nowhere".into(),
                ..base.clone()
            },
            Code::InvalidArgument,
        ),
        (
            CreateDeploymentRequest {
                selector: "site in (".into(),
                ..base.clone()
            },
            Code::InvalidArgument,
        ),
        (
            CreateDeploymentRequest {
                device_names: vec!["nobody".into()],
                ..base.clone()
            },
            Code::NotFound,
        ),
        (
            CreateDeploymentRequest {
                bundle: "app:9.9".into(),
                selector: "*".into(),
                ..base
            },
            Code::NotFound,
        ),
    ] {
        let refused = operator.deploy_for(request.clone()).await.unwrap_err();
        assert_eq!(refused.code(), code, "{request:?}: {refused}");
    }
}

async fn the_same_request_again_is_the_same_deployment(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    server.raw_device("edge-1").await;
    let bundle = operator
        .push(&BundleBuilder::script("app", "1.0", "true").gzip().await)
        .await;
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
    let bundle = operator
        .push(&BundleBuilder::script("app", "1.0", "true").gzip().await)
        .await;
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

async fn watchers_see_a_snapshot_every_change_and_the_end(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut device = server.raw_device("edge-1").await;
    let mut session = device.connect(&server).await;
    let bundle = operator
        .push(&BundleBuilder::script("app", "1.0", "true").gzip().await)
        .await;
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
    let snapshot = watch.message().await.unwrap().unwrap();
    assert_eq!(snapshot.targets.len(), 1);
    let (command, deploy) = session.deploy_command().await;
    session.accept(&command, 1).await;
    session.outcome(&command, 2, succeeded(&deploy)).await;
    let mut last = snapshot;
    while let Some(change) = watch.message().await.unwrap() {
        last = change;
    }
    let deployment = last.deployment.unwrap();
    assert_eq!(
        (deployment.id, deployment.state),
        (id.clone(), DeploymentState::Finished.into())
    );

    let request = WatchEventsRequest::default();
    let mut events = operator
        .events()
        .watch_events(request)
        .await
        .unwrap()
        .into_inner();
    let mut kinds = Vec::new();
    while kinds
        .last()
        .is_none_or(|kind| kind != "deployment.finished")
    {
        let next = tokio::time::timeout(Duration::from_secs(30), events.message()).await;
        let next = next.unwrap_or_else(|_| panic!("the end was not told: {kinds:?}"));
        kinds.push(next.unwrap().unwrap().event.unwrap().kind);
    }
    assert!(
        kinds.iter().any(|kind| kind == "device.online"),
        "{kinds:?}"
    );
    assert!(
        kinds.iter().any(|kind| kind == "attempt.succeeded"),
        "{kinds:?}"
    );
}
