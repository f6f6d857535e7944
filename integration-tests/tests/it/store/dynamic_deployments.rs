//! Dynamic deployments: devices that match later join, and newer deployments supersede older ones.

use kernex_integration_tests::{Database, both_databases};
use kernex_server::{
    domain::{
        attempt::State,
        rollout::{DeploymentResult, DeploymentState, Rollout},
        selector::Selector,
    },
    store::{CreatedDeployment, NewDeployment, StoreError, Terms},
};

use super::fixture::{Device, Fixture, HOUR, caller, failed, succeeded, token};

async fn dynamic(
    fixture: &Fixture,
    bundle: &str,
    selector: &str,
    change: impl FnOnce(&mut NewDeployment),
) -> CreatedDeployment {
    let selector = Selector::parse(selector).unwrap();
    let mut order = NewDeployment {
        selector: Some(selector.clone()),
        terms: Terms {
            dynamic: Some(selector),
            ..Terms::default()
        },
        ..Fixture::order(bundle, &[])
    };
    change(&mut order);
    fixture
        .operators
        .create_deployment(&caller("CreateDeployment"), order)
        .await
        .unwrap()
}

async fn label(fixture: &Fixture, device: &Device, key: &str, value: &str) {
    let set = [(key.to_owned(), value.to_owned())].into();
    fixture
        .operators
        .update_labels(
            &caller("UpdateDeviceLabels"),
            &device.name,
            set,
            Vec::new(),
            0,
        )
        .await
        .unwrap();
}

async fn devices_in(fixture: &Fixture, deployment: &CreatedDeployment) -> Vec<String> {
    let mut names: Vec<String> = fixture
        .targets(deployment.deployment.id)
        .await
        .into_iter()
        .map(|target| target.device_name)
        .collect();
    names.sort();
    names
}

both_databases![
    devices_join_when_they_enrol_are_labelled_or_tell_what_they_are,
    devices_join_a_paused_deployment_only_when_it_is_resumed,
    a_dynamic_deployment_ends_by_its_deadline,
    a_cancel_ends_a_dynamic_deployment_that_has_no_open_target,
];

async fn devices_join_when_they_enrol_are_labelled_or_tell_what_they_are(database: Database) {
    let fixture = Fixture::new(database).await;
    fixture.bundle("app", "1").await;
    let linux = dynamic(
        &fixture,
        "app:1",
        "kernex.io/agent-version=1.0,!spare",
        |_| {},
    )
    .await;
    assert_eq!(
        linux.deployment.state,
        DeploymentState::Active,
        "nothing matches yet, and that is fine"
    );
    assert_eq!(
        linux.deployment.dynamic.as_ref().unwrap().to_string(),
        "kernex.io/agent-version=1.0,!spare"
    );
    let one = fixture.device("edge-1").await;
    assert!(
        devices_in(&fixture, &linux).await.is_empty(),
        "it has not told its version"
    );
    let epoch = fixture.session(&one, 0, &[]).await.epoch;
    assert_eq!(devices_in(&fixture, &linux).await, ["edge-1"]);
    assert_eq!(fixture.due(&one, epoch).await[0].0, "deploy app:1");
    fixture.session(&one, epoch, &[]).await;
    assert_eq!(devices_in(&fixture, &linux).await, ["edge-1"], "once");

    fixture.bundle("db", "1").await;
    let berlin = dynamic(&fixture, "db:1", "site=berlin", |_| {}).await;
    assert_eq!(devices_in(&fixture, &berlin).await, ["edge-1"]);
    let two = fixture.enrol(fixture.token(token(1)).await, "edge-2").await;
    assert_eq!(
        devices_in(&fixture, &berlin).await,
        ["edge-1", "edge-2"],
        "with the labels of its token"
    );
    label(&fixture, &two, "site", "paris").await;
    assert_eq!(
        fixture.state(&berlin, &two).await,
        State::Pending,
        "what was ordered stays ordered"
    );
    let paris = dynamic(&fixture, "db:1", "site=paris", |_| {}).await;
    label(&fixture, &one, "site", "paris").await;
    assert_eq!(devices_in(&fixture, &paris).await, ["edge-1", "edge-2"]);
    assert_eq!(
        fixture.state(&berlin, &one).await,
        State::Superseded,
        "the newer order has it"
    );
    label(&fixture, &one, "site", "berlin").await;
    assert_eq!(
        fixture.state(&paris, &one).await,
        State::Pending,
        "and an older one never takes it back"
    );
    assert!(
        fixture
            .kinds_of_events()
            .await
            .contains(&"deployment.joined".to_owned())
    );
}

async fn devices_join_a_paused_deployment_only_when_it_is_resumed(database: Database) {
    let fixture = Fixture::new(database).await;
    fixture.bundle("app", "1").await;
    let one = fixture.device("edge-1").await;
    let deployment = dynamic(&fixture, "app:1", "site=berlin", |order| {
        order.rollout = Some(Rollout::at_once())
    })
    .await;
    let (attempt, _) = fixture.target(&deployment, &one).await;
    fixture
        .report(
            &one,
            attempt,
            failed(kernex_proto::v1::FailureReason::ScriptFailed),
        )
        .await;
    fixture.store.advance_rollouts().await.unwrap();
    let paused = fixture
        .view
        .get_deployment(deployment.deployment.id)
        .await
        .unwrap();
    assert_eq!(
        paused.state,
        DeploymentState::Paused,
        "{}",
        paused.paused_reason
    );
    let two = fixture.device("edge-2").await;
    assert_eq!(devices_in(&fixture, &deployment).await, ["edge-1"]);
    fixture
        .operators
        .resume_deployment(&caller("ResumeDeployment"), deployment.deployment.id)
        .await
        .unwrap();
    assert_eq!(
        devices_in(&fixture, &deployment).await,
        ["edge-1", "edge-2"]
    );
    let (_, target) = fixture.target(&deployment, &two).await;
    assert_eq!(
        (target.state, target.phase),
        (State::Pending, 1),
        "in the current phase"
    );
}

async fn a_dynamic_deployment_ends_by_its_deadline(database: Database) {
    let fixture = Fixture::new(database).await;
    fixture.bundle("app", "1").await;
    let one = fixture.device("edge-1").await;
    let deployment = dynamic(&fixture, "app:1", "site=berlin", |order| {
        order.terms.deadline_after = Some(HOUR)
    })
    .await;
    let (attempt, _) = fixture.target(&deployment, &one).await;
    fixture.report(&one, attempt, succeeded("1", b"1")).await;
    let open = fixture
        .view
        .get_deployment(deployment.deployment.id)
        .await
        .unwrap();
    assert_eq!(
        (open.state, open.counts.succeeded),
        (DeploymentState::Active, 1),
        "it waits for others"
    );
    let deleted = fixture
        .operators
        .delete_bundle(&caller("DeleteBundle"), "app:1")
        .await;
    assert!(
        matches!(deleted, Err(StoreError::InUse { .. })),
        "{deleted:?}"
    );
    fixture.clock.advance(HOUR);
    fixture.store.expire_due().await.unwrap();
    let done = fixture
        .view
        .get_deployment(deployment.deployment.id)
        .await
        .unwrap();
    assert_eq!(
        (done.state, done.result),
        (DeploymentState::Finished, Some(DeploymentResult::Succeeded))
    );
    fixture.device("edge-2").await;
    assert_eq!(
        devices_in(&fixture, &deployment).await,
        ["edge-1"],
        "nobody joins what is over"
    );
}

async fn a_cancel_ends_a_dynamic_deployment_that_has_no_open_target(database: Database) {
    let fixture = Fixture::new(database).await;
    fixture.bundle("app", "1").await;
    for rollout in [None, Some(Rollout::at_once())] {
        let deployment = dynamic(&fixture, "app:1", "site=nowhere", |order| {
            order.rollout = rollout
        })
        .await;
        fixture.store.advance_rollouts().await.unwrap();
        assert_eq!(
            fixture.store.advance_rollouts().await.unwrap().applied,
            0,
            "nothing is left to do"
        );
        let (done, _) = fixture
            .operators
            .cancel_deployment(&caller("CancelDeployment"), deployment.deployment.id)
            .await
            .unwrap();
        assert_eq!(
            (done.state, done.result),
            (DeploymentState::Finished, Some(DeploymentResult::Cancelled))
        );
    }
}
