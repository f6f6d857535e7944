//! A cancel, for devices that have begun and for devices that have not.

use kernex_integration_tests::{Database, TestServer, both_databases};
use kernex_proto::v1::{
    AttemptState, CancelDeploymentRequest, DeploymentResult, DeploymentState, command,
};
use tonic::Code;

both_databases![
    cancelling_closes_targets_that_have_not_begun_at_once,
    a_stop_reaches_a_device_that_was_offline,
];

async fn cancelling_closes_targets_that_have_not_begun_at_once(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    server.raw_device("edge-1").await;
    let bundle = operator.push_script("app", "1.0", "true").await;
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
    let bundle = operator.push_script("app", "1.0", "true").await;
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
