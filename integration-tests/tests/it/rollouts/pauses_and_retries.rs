//! Pausing a rollout, and trying devices again.

use kernex_integration_tests::{
    Database, TestServer, both_databases,
    raw_agent::{failed, succeeded},
    refusal::wrong_field,
};
use kernex_proto::v1::{
    AttemptState, CreateDeploymentRequest, DeploymentResult, DeploymentState, FailureReason,
};
use tonic::Code;

use super::{Fleet, IN_FLIGHT, in_states, pause, resume, retry};

both_databases![
    a_paused_deployment_begins_nowhere_not_even_on_a_device_that_comes_back,
    a_retry_waits_until_the_device_has_answered_the_attempt_before,
    a_retry_leaves_out_devices_that_a_newer_deployment_has_reached,
];

async fn a_paused_deployment_begins_nowhere_not_even_on_a_device_that_comes_back(
    database: Database,
) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut device = server.raw_device("edge-1").await;
    let bundle = operator.push_script("app", "1.0", "true").await;
    let id = operator.deploy(&bundle, &["edge-1"]).await;
    pause(&operator, &id, "a complaint came in").await.unwrap();
    assert_eq!(
        operator.deployment(&id).await.paused_reason,
        "a complaint came in"
    );
    let twice = pause(&operator, &id, "").await.unwrap_err();
    assert_eq!(twice.code(), Code::FailedPrecondition);
    let mut session = device.connect(&server).await;
    operator.online("edge-1").await;
    // Another order shows that the dispatcher has looked at the device.
    let other = operator.push_script("other", "1.0", "true").await;
    operator.deploy(&other, &["edge-1"]).await;
    assert_eq!(session.deploy_command().await.1.name, "other");
    resume(&operator, &id).await.unwrap();
    assert_eq!(session.deploy_command().await.1.name, "app");
    let running = resume(&operator, &id).await.unwrap_err();
    assert_eq!(running.code(), Code::FailedPrecondition);
}

async fn a_retry_waits_until_the_device_has_answered_the_attempt_before(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut fleet = Fleet::of(&server, &["edge-1"]).await;
    let bundle = operator.push_script("app", "1.0", "true").await;
    let id = operator
        .deploy_for(CreateDeploymentRequest {
            bundle: bundle.digest.clone(),
            selector: "*".into(),
            execution_timeout_seconds: 1,
            ..Default::default()
        })
        .await
        .unwrap();
    let (first, _) = fleet.take("edge-1").await;
    operator.target_in(&id, &[AttemptState::Expired]).await;
    let stop = fleet.session("edge-1").command().await;
    assert!(
        stop.action
            .is_some_and(|action| matches!(action, kernex_proto::v1::command::Action::Stop(_)))
    );
    assert_eq!(retry(&operator, &id, &["edge-1"]).await.unwrap(), (1, 0));
    let again = operator.deployment(&id).await;
    assert_eq!(
        (again.state(), again.result()),
        (DeploymentState::Active, DeploymentResult::Unspecified)
    );
    // Another order shows that the dispatcher has looked, and the second attempt was not among
    // what it pushed.
    let other = operator.push_script("other", "1.0", "true").await;
    operator.deploy(&other, &["edge-1"]).await;
    let (barrier, deploy) = fleet.session("edge-1").deploy_command().await;
    assert_eq!(deploy.name, "other");
    fleet.session("edge-1").accept(&barrier, 3).await;
    let outcome = failed(FailureReason::ScriptTimeout, "killed");
    fleet.session("edge-1").outcome(&first, 4, outcome).await;
    let (second, deploy) = fleet.session("edge-1").deploy_command().await;
    assert_eq!(
        second.attempt.as_ref().map(|attempt| attempt.attempt),
        Some(2)
    );
    fleet
        .session("edge-1")
        .outcome(&second, 5, succeeded(&deploy))
        .await;
    assert_eq!(
        operator.finished(&id).await.result(),
        DeploymentResult::Succeeded
    );
    let nothing = retry(&operator, &id, &[]).await.unwrap_err();
    assert_eq!(nothing.code(), Code::FailedPrecondition);
    let stranger = retry(&operator, &id, &["edge-9"]).await.unwrap_err();
    assert_eq!(
        (stranger.code(), wrong_field(&stranger).as_str()),
        (Code::InvalidArgument, "devices")
    );
}

async fn a_retry_leaves_out_devices_that_a_newer_deployment_has_reached(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut fleet = Fleet::of(&server, &["a", "b"]).await;
    let old = operator.push_script("app", "1.0", "true").await;
    let id = operator.deploy(&old, &["a", "b"]).await;
    fleet.fail("a").await;
    fleet.fail("b").await;
    operator.finished(&id).await;
    let new = operator.push_script("app", "2.0", "true").await;
    operator.deploy(&new, &["a"]).await;
    assert_eq!(retry(&operator, &id, &[]).await.unwrap(), (1, 1));
    assert_eq!(in_states(&operator, &id, IN_FLIGHT).await, ["b"]);
    let other = retry(&operator, &id, &["a"]).await.unwrap_err();
    assert_eq!(other.code(), Code::FailedPrecondition, "{other}");
}
