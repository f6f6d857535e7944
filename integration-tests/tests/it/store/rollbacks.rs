//! Rollback plans: which release each device returns to, and why some cannot.

use kernex_integration_tests::{Database, both_databases};
use kernex_proto::v1::FailureReason;
use kernex_server::{
    domain::{
        attempt::State,
        rollback::RollbackVerdict,
        rollout::{Amount, DeploymentResult, DeploymentState, OnFailure, Rollout},
    },
    store::{
        CreatedDeployment, DeploymentFilter, DueKind, NewDeployment, NewRollback, Page,
        ReportEvent, StoreError,
    },
};
use uuid::Uuid;

use super::fixture::{Device, Fixture, HOUR, MINUTE, caller, failed, repeated, reused, succeeded};

fn rollback(of: &CreatedDeployment) -> NewRollback {
    NewRollback {
        deployment: of.deployment.id,
        delivery: HOUR,
        execution: MINUTE,
        traceparent: String::new(),
        message: String::new(),
    }
}

async fn run(fixture: &Fixture, version: &str, devices: &[&Device]) -> CreatedDeployment {
    let deployment = fixture.deploy(&format!("app:{version}"), devices).await;
    for device in devices {
        let (attempt, _) = fixture.target(&deployment, device).await;
        let event = succeeded(version, version.as_bytes());
        fixture.report(device, attempt, event).await;
    }
    deployment
}

async fn verdicts(
    fixture: &Fixture,
    of: &CreatedDeployment,
) -> Vec<(RollbackVerdict, Option<String>)> {
    let steps = fixture.view.plan_rollback(of.deployment.id).await.unwrap();
    steps
        .into_iter()
        .map(|step| (step.verdict, step.bundle))
        .collect()
}

/// One phase that tolerates no failure and is rolled back after one.
fn returning() -> Rollout {
    let mut rollout = Rollout::together();
    rollout.phases[0].max_failures = Amount::Count(0);
    rollout.on_failure = OnFailure::Rollback;
    rollout
}

/// A failed outcome of a device that went back to version 1.
fn went_back() -> ReportEvent {
    let (mut failed, good) = (failed(FailureReason::ScriptFailed), succeeded("1", b"1"));
    if let (ReportEvent::Outcome(failed), ReportEvent::Outcome(good)) = (&mut failed, good) {
        failed.active = good.active;
    }
    failed
}

both_databases![
    each_rollback_returns_to_what_ran_before_its_deployment,
    a_rollback_never_goes_to_a_failed_or_deleted_release,
    the_same_request_rolls_back_once,
    a_deployment_that_fails_too_often_is_taken_back_when_it_was_asked_to,
    a_failure_that_no_device_can_go_back_from_ends_the_deployment,
    a_retry_reopens_a_deployment_that_could_not_be_taken_back,
];

async fn each_rollback_returns_to_what_ran_before_its_deployment(database: Database) {
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    for version in ["1", "2", "3"] {
        fixture.bundle("app", version).await;
    }
    let first = run(&fixture, "1", &[&device]).await;
    let second = run(&fixture, "2", &[&device]).await;
    let third = run(&fixture, "3", &[&device]).await;
    let to = |version: &str| vec![(RollbackVerdict::GoBack, Some(format!("app:{version}")))];
    assert_eq!(verdicts(&fixture, &third).await, to("2"));
    assert_eq!(
        verdicts(&fixture, &second).await,
        [(RollbackVerdict::MovedOn, None)]
    );
    let rolled = fixture
        .operators
        .roll_back(&caller("RollbackDeployment"), rollback(&third))
        .await
        .unwrap();
    let epoch = fixture.session(&device, 0, &[]).await.epoch;
    let due = fixture
        .store
        .due_commands(&[(device.id, epoch)])
        .await
        .unwrap()
        .remove(0);
    let DueKind::Deploy(deploy) = &due.kind else {
        panic!("{due:?}")
    };
    assert!(deploy.go_back && deploy.version == "2", "{deploy:?}");
    fixture
        .report(&device, due.attempt, succeeded("2", b"2"))
        .await;
    assert_eq!(
        verdicts(&fixture, &third).await,
        [(RollbackVerdict::AlreadyThere, None)]
    );
    assert_eq!(
        verdicts(&fixture, &second).await,
        to("1"),
        "not to what was rolled back"
    );
    assert_eq!(
        verdicts(&fixture, &rolled.created).await,
        to("3"),
        "a rollback is a deployment"
    );
    assert_eq!(
        verdicts(&fixture, &first).await,
        [(RollbackVerdict::MovedOn, None)]
    );
    let again = run(&fixture, "2", &[&device]).await;
    assert_eq!(
        verdicts(&fixture, &again).await,
        [(RollbackVerdict::AlreadyThere, None)],
        "the same again changed nothing"
    );
}

async fn a_rollback_never_goes_to_a_failed_or_deleted_release(database: Database) {
    let fixture = Fixture::new(database).await;
    let (one, two, three) = (
        fixture.device("edge-1").await,
        fixture.device("edge-2").await,
        fixture.device("edge-3").await,
    );
    for version in ["1", "2", "3"] {
        fixture.bundle("app", version).await;
    }
    run(&fixture, "1", &[&one, &two, &three]).await;
    let unwanted = fixture.deploy("app:2", &[&one]).await;
    let (attempt, _) = fixture.target(&unwanted, &one).await;
    // It fails, and so does going back.
    let mut stuck = failed(FailureReason::RollbackFailed);
    if let ReportEvent::Outcome(outcome) = &mut stuck
        && let ReportEvent::Outcome(active) = succeeded("2", b"2")
    {
        outcome.active = active.active;
    }
    fixture.report(&one, attempt, stuck).await;
    assert_eq!(
        verdicts(&fixture, &unwanted).await,
        [(RollbackVerdict::GoBack, Some("app:1".into()))]
    );
    let third = run(&fixture, "3", &[&one, &two, &three]).await;
    fixture
        .operators
        .delete_device(&caller("DeleteDevice"), "edge-3", &[])
        .await
        .unwrap();
    let told = verdicts(&fixture, &third).await;
    assert_eq!(
        told,
        [
            (RollbackVerdict::Unproven, None),
            (RollbackVerdict::GoBack, Some("app:1".into())),
            (RollbackVerdict::DeviceGone, None)
        ]
    );
    let kept = fixture
        .operators
        .delete_bundle(&caller("DeleteBundle"), "app:1")
        .await;
    assert!(matches!(kept, Err(StoreError::InUse { .. })), "{kept:?}");
}

async fn the_same_request_rolls_back_once(database: Database) {
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    fixture.bundle("app", "1").await;
    fixture.bundle("app", "2").await;
    let first = run(&fixture, "1", &[&device]).await;
    let second = run(&fixture, "2", &[&device]).await;
    let request = repeated("RollbackDeployment", Uuid::now_v7());
    let once = fixture
        .operators
        .roll_back(&request, rollback(&second))
        .await
        .unwrap();
    let again = fixture
        .operators
        .roll_back(&request, rollback(&second))
        .await
        .unwrap();
    assert_eq!(once.created.deployment.id, again.created.deployment.id);
    let other = fixture
        .operators
        .roll_back(&reused(&request), rollback(&first))
        .await;
    assert!(
        matches!(other, Err(StoreError::RequestIdReused)),
        "{other:?}"
    );
    let nothing = fixture
        .operators
        .roll_back(&caller("RollbackDeployment"), rollback(&first))
        .await;
    let Err(StoreError::NothingToRollBack(why)) = nothing else {
        panic!("{nothing:?}")
    };
    assert_eq!(
        why,
        "edge-1: runs something else since, from a later deployment"
    );
    assert!(
        fixture
            .kinds_of_events()
            .await
            .contains(&"deployment.rolled_back".to_owned())
    );
}

async fn a_deployment_that_fails_too_often_is_taken_back_when_it_was_asked_to(database: Database) {
    let fixture = Fixture::new(database).await;
    let devices = [
        fixture.device("edge-1").await,
        fixture.device("edge-2").await,
        fixture.device("edge-3").await,
    ];
    let all: Vec<&Device> = devices.iter().collect();
    fixture.bundle("app", "1").await;
    fixture.bundle("app", "2").await;
    run(&fixture, "1", &all).await;
    let order = NewDeployment {
        rollout: Some(returning()),
        ..Fixture::order("app:2", &all)
    };
    let deployment = fixture
        .operators
        .create_deployment(&caller("CreateDeployment"), order)
        .await
        .unwrap();
    let done = fixture.target(&deployment, &devices[0]).await.0;
    fixture
        .report(&devices[0], done, succeeded("2", b"2"))
        .await;
    let broken = fixture.target(&deployment, &devices[1]).await.0;
    fixture.report(&devices[1], broken, went_back()).await;
    let told = fixture.store.advance_rollouts().await.unwrap().devices;
    assert!(told.contains(&devices[0].id), "{told:?}");
    let failed = fixture
        .view
        .get_deployment(deployment.deployment.id)
        .await
        .unwrap();
    assert_eq!(
        (failed.state, failed.result),
        (DeploymentState::Finished, Some(DeploymentResult::Failed))
    );
    assert_eq!(
        fixture.state(&deployment, &devices[2]).await,
        State::Cancelled,
        "it had not begun"
    );
    let newest = fixture
        .view
        .list_deployments(&DeploymentFilter::default(), Page::first(1))
        .await
        .unwrap()
        .items
        .remove(0);
    assert_eq!(
        (
            newest.rolls_back,
            newest.bundle.as_str(),
            newest.created_by.as_str()
        ),
        (Some(failed.id), "app:1", "kernex")
    );
    assert_eq!(
        fixture
            .targets(newest.id)
            .await
            .iter()
            .map(|target| target.device)
            .collect::<Vec<_>>(),
        [devices[0].id]
    );
    fixture.store.advance_rollouts().await.unwrap();
    assert_eq!(
        fixture
            .view
            .list_deployments(&DeploymentFilter::default(), Page::first(10))
            .await
            .unwrap()
            .items
            .len(),
        3,
        "once"
    );
}

async fn a_failure_that_no_device_can_go_back_from_ends_the_deployment(database: Database) {
    let fixture = Fixture::new(database).await;
    let (one, two) = (
        fixture.device("edge-1").await,
        fixture.device("edge-2").await,
    );
    fixture.bundle("app", "1").await;
    let order = NewDeployment {
        rollout: Some(returning()),
        ..Fixture::order("app:1", &[&one, &two])
    };
    let deployment = fixture
        .operators
        .create_deployment(&caller("CreateDeployment"), order)
        .await
        .unwrap();
    let (attempt, _) = fixture.target(&deployment, &one).await;
    fixture
        .report(&one, attempt, failed(FailureReason::ScriptFailed))
        .await;
    fixture.store.advance_rollouts().await.unwrap();
    let ended = fixture
        .view
        .get_deployment(deployment.deployment.id)
        .await
        .unwrap();
    assert_eq!(ended.state, DeploymentState::Finished, "{ended:?}");
    assert_eq!(ended.result, Some(DeploymentResult::Failed), "{ended:?}");
    assert_eq!(
        ended.ended_reason,
        "phase 1: 1 of 2 failed; no device could go back: edge-1, edge-2: never ran the bundle successfully"
    );
    assert_eq!((ended.counts.failed, ended.counts.cancelled), (1, 1));
    assert_eq!(ended.rolled_back_by, None);
    let events = fixture.kinds_of_events().await;
    for kind in ["deployment.rollback_refused", "deployment.finished"] {
        assert!(events.contains(&kind.to_owned()), "{kind}: {events:?}");
    }
}

async fn a_retry_reopens_a_deployment_that_could_not_be_taken_back(database: Database) {
    let fixture = Fixture::new(database).await;
    let one = fixture.device("edge-1").await;
    fixture.bundle("app", "1").await;
    let order = NewDeployment {
        rollout: Some(returning()),
        ..Fixture::order("app:1", &[&one])
    };
    let deployment = fixture
        .operators
        .create_deployment(&caller("CreateDeployment"), order)
        .await
        .unwrap();
    let (attempt, _) = fixture.target(&deployment, &one).await;
    fixture
        .report(&one, attempt, failed(FailureReason::ScriptFailed))
        .await;
    fixture.store.advance_rollouts().await.unwrap();
    let retried = fixture
        .operators
        .retry_deployment(&caller("RetryDeployment"), deployment.deployment.id, &[])
        .await
        .unwrap();
    assert_eq!(retried.deployment.state, DeploymentState::Active);
    assert_eq!(retried.deployment.ended_reason, "");
}
