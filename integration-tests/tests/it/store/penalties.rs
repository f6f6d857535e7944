//! Devices that failed a bundle too often get it by an explicit retry only.

use kernex_integration_tests::{Database, both_databases};
use kernex_proto::v1;
use kernex_server::{
    domain::{
        attempt::{FailureReason, State},
        rollout::{DeploymentResult, DeploymentState},
    },
    store::{CreatedDeployment, NewDeployment, Terms},
};

use super::fixture::{Device, Fixture, caller, failed, succeeded};

fn order(bundle: &str, devices: &[&Device], penalty_after: u32) -> NewDeployment {
    NewDeployment {
        terms: Terms {
            penalty_after,
            ..Terms::default()
        },
        ..Fixture::order(bundle, devices)
    }
}

async fn deploy(fixture: &Fixture, bundle: &str, devices: &[&Device]) -> CreatedDeployment {
    let order = order(bundle, devices, 2);
    fixture
        .operators
        .create_deployment(&caller("CreateDeployment"), order)
        .await
        .unwrap()
}

async fn fail(fixture: &Fixture, device: &Device, reason: v1::FailureReason) {
    let deployment = deploy(fixture, "app:1", &[device]).await;
    let (attempt, _) = fixture.target(&deployment, device).await;
    fixture.report(device, attempt, failed(reason)).await;
}

both_databases![
    after_repeated_failures_a_device_is_left_out_with_the_reason,
    a_deployment_to_penalised_devices_only_is_finished_at_once,
    a_success_lifts_the_penalty,
];

async fn after_repeated_failures_a_device_is_left_out_with_the_reason(database: Database) {
    let fixture = Fixture::new(database).await;
    let (bad, good) = (
        fixture.device("edge-1").await,
        fixture.device("edge-2").await,
    );
    fixture.bundle("app", "1").await;
    fixture.bundle("app", "2").await;
    fail(&fixture, &bad, v1::FailureReason::ScriptFailed).await;
    fail(&fixture, &bad, v1::FailureReason::Download).await;
    fail(&fixture, &bad, v1::FailureReason::HealthCheck).await;
    let planning = fixture
        .view
        .planning(&order("app:1", &[&bad, &good], 2))
        .await
        .unwrap();
    let boxed: Vec<_> = planning
        .devices
        .iter()
        .filter(|device| device.penalty.is_some())
        .map(|device| device.id)
        .collect();
    assert_eq!(boxed, [bad.id], "the plan says so");
    let deployment = deploy(&fixture, "app:1", &[&bad, &good]).await;
    let (_, target) = fixture.target(&deployment, &bad).await;
    assert_eq!(
        (target.state, target.reason),
        (State::Failed, Some(FailureReason::Penalised))
    );
    assert!(
        target.message.contains("2 times in a row") && target.message.contains("health_check"),
        "{}",
        target.message
    );
    assert_eq!(
        deployment.deployment.state,
        DeploymentState::Active,
        "it goes on with the others"
    );
    assert!(fixture.due(&bad, 1).await.is_empty());
    assert_eq!(fixture.due(&good, 1).await.len(), 1);
    let other = deploy(&fixture, "app:2", &[&bad]).await;
    assert_eq!(
        fixture.state(&other, &bad).await,
        State::Pending,
        "it is about these bytes only"
    );
    let off = fixture
        .operators
        .create_deployment(&caller("CreateDeployment"), order("app:1", &[&bad], 0))
        .await
        .unwrap();
    assert_eq!(
        fixture.state(&off, &bad).await,
        State::Pending,
        "0 lets everybody through"
    );
}

async fn a_deployment_to_penalised_devices_only_is_finished_at_once(database: Database) {
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    fixture.bundle("app", "1").await;
    fail(&fixture, &device, v1::FailureReason::ScriptFailed).await;
    fail(&fixture, &device, v1::FailureReason::ScriptFailed).await;
    let created = deploy(&fixture, "app:1", &[&device]).await;
    let deployment = &created.deployment;
    assert_eq!(
        (deployment.state, deployment.result),
        (DeploymentState::Finished, Some(DeploymentResult::Failed))
    );
    let events = fixture.view.events_after(0, 10_000).await.unwrap();
    let last = events
        .iter()
        .rfind(|event| event.kind == "attempt.failed")
        .unwrap();
    assert!(last.detail_json.contains("penalised"), "{last:?}");

    // A retry runs it again, and it may fail again.
    let retry = caller("RetryDeployment");
    let retried = fixture
        .operators
        .retry_deployment(&retry, deployment.id, &[])
        .await
        .unwrap();
    assert_eq!((retried.retried, retried.deployment.counts.pending), (1, 1));
    assert_eq!(fixture.due(&device, 1).await[0].0, "deploy app:1");
    let (attempt, _) = fixture.target(&created, &device).await;
    assert_eq!(attempt.number, 2);
    fixture.report(&device, attempt, succeeded("1", b"1")).await;
    let done = fixture.view.get_deployment(deployment.id).await.unwrap();
    assert_eq!(done.result, Some(DeploymentResult::Succeeded));
}

async fn a_success_lifts_the_penalty(database: Database) {
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    fixture.bundle("app", "1").await;
    fail(&fixture, &device, v1::FailureReason::ScriptFailed).await;
    let deployment = deploy(&fixture, "app:1", &[&device]).await;
    let (attempt, _) = fixture.target(&deployment, &device).await;
    fixture.report(&device, attempt, succeeded("1", b"1")).await;
    fail(&fixture, &device, v1::FailureReason::ScriptFailed).await;
    let again = deploy(&fixture, "app:1", &[&device]).await;
    assert_eq!(fixture.state(&again, &device).await, State::Pending);
}
