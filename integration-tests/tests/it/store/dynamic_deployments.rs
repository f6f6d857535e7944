//! Dynamic deployments: devices that match later join, and newer deployments supersede older ones.

use std::time::Duration;

use kernex_integration_tests::{Database, both_databases};
use kernex_server::{
    domain::{
        attempt::State,
        rollout::{DeploymentResult, DeploymentState, Rollout},
        schedule::Schedule,
        selector::Selector,
    },
    store::{CreatedDeployment, NewDeployment, ReportEvent, StoreError, Terms},
};

use super::fixture::{Device, Fixture, HOUR, MINUTE, caller, failed, succeeded, token};

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
    a_dynamic_deployment_ends_by_an_order_also_when_no_target_is_open,
    a_newer_deployment_supersedes_held_and_scheduled_targets,
    a_deleted_device_leaves_its_deployment_and_the_others_go_on,
    a_bundle_in_use_is_not_deleted_and_a_missing_one_is_named,
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

async fn a_dynamic_deployment_ends_by_an_order_also_when_no_target_is_open(database: Database) {
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

async fn a_newer_deployment_supersedes_held_and_scheduled_targets(database: Database) {
    let fixture = Fixture::new(database).await;
    for version in ["1", "2"] {
        fixture.bundle("app", version).await;
    }
    let (one, two, three) = (
        fixture.device("edge-1").await,
        fixture.device("edge-2").await,
        fixture.device("edge-3").await,
    );
    let all = [&one, &two, &three];
    let mut rollout = Rollout::at_once();
    rollout.max_in_flight = Some(1);
    let order = NewDeployment {
        rollout: Some(rollout),
        ..Fixture::order("app:1", &all)
    };
    let phased = fixture
        .operators
        .create_deployment(&caller("CreateDeployment"), order)
        .await
        .unwrap();
    let start = Some(fixture.store.now().plus(Duration::from_secs(24 * 3600)));
    let terms = Terms {
        schedule: Schedule {
            start,
            ..Schedule::default()
        },
        ..Terms::default()
    };
    let states = fixture.targets(phased.deployment.id).await;
    let released = states
        .iter()
        .find(|target| target.state == State::Pending)
        .expect("one is in flight");
    let begun = all
        .into_iter()
        .find(|device| device.id == released.device)
        .unwrap();
    let (attempt, _) = fixture.target(&phased, begun).await;
    fixture.report(begun, attempt, ReportEvent::Accepted).await;

    let order = NewDeployment {
        terms,
        ..Fixture::order("app:2", &all)
    };
    let scheduled = fixture
        .operators
        .create_deployment(&caller("CreateDeployment"), order)
        .await
        .unwrap();
    for device in all {
        let wanted = if device.id == begun.id {
            State::Accepted
        } else {
            State::Superseded
        };
        assert_eq!(
            fixture.state(&phased, device).await,
            wanted,
            "what has begun is left to end"
        );
    }
    fixture.report(begun, attempt, succeeded("1", b"1")).await;
    fixture.store.advance_rollouts().await.unwrap();
    let done = fixture
        .view
        .get_deployment(phased.deployment.id)
        .await
        .unwrap();
    assert_eq!(
        (done.state, done.result),
        (
            DeploymentState::Finished,
            Some(DeploymentResult::Superseded)
        )
    );

    let newest = fixture.deploy("app:1", &[&one]).await;
    assert_eq!(fixture.state(&scheduled, &one).await, State::Superseded);
    assert_eq!(fixture.state(&scheduled, &two).await, State::Held);
    assert_eq!(fixture.state(&newest, &one).await, State::Pending);
}

async fn a_deleted_device_leaves_its_deployment_and_the_others_go_on(database: Database) {
    let fixture = Fixture::new(database).await;
    fixture.bundle("app", "1").await;
    let (one, two) = (
        fixture.device("edge-1").await,
        fixture.device("edge-2").await,
    );
    let order = NewDeployment {
        rollout: Some(Rollout::at_once()),
        ..Fixture::order("app:1", &[&one, &two])
    };
    let deployment = fixture
        .operators
        .create_deployment(&caller("CreateDeployment"), order)
        .await
        .unwrap();
    let (attempt, _) = fixture.target(&deployment, &one).await;
    fixture.report(&one, attempt, ReportEvent::Accepted).await;
    fixture
        .operators
        .delete_device(&caller("DeleteDevice"), "edge-1", &[])
        .await
        .unwrap();
    assert_eq!(fixture.state(&deployment, &one).await, State::Cancelled);
    fixture.clock.advance(MINUTE * 2);
    assert_eq!(fixture.store.expire_due().await.unwrap(), 0);
    let (other, _) = fixture.target(&deployment, &two).await;
    fixture.report(&two, other, succeeded("1", b"1")).await;
    fixture.store.advance_rollouts().await.unwrap();
    let done = fixture
        .view
        .get_deployment(deployment.deployment.id)
        .await
        .unwrap();
    assert_eq!(
        (done.state, done.counts.cancelled, done.counts.succeeded),
        (DeploymentState::Finished, 1, 1)
    );
}

async fn a_bundle_in_use_is_not_deleted_and_a_missing_one_is_named(database: Database) {
    let fixture = Fixture::new(database).await;
    fixture.bundle("app", "1").await;
    let device = fixture.device("edge-1").await;
    let start = Some(fixture.store.now().plus(HOUR));
    let terms = Terms {
        schedule: Schedule {
            start,
            ..Schedule::default()
        },
        ..Terms::default()
    };
    let order = NewDeployment {
        terms,
        ..Fixture::order("app:1", &[&device])
    };
    let deployment = fixture
        .operators
        .create_deployment(&caller("CreateDeployment"), order)
        .await
        .unwrap();
    let deleted = fixture
        .operators
        .delete_bundle(&caller("DeleteBundle"), "app:1")
        .await;
    assert!(
        matches!(deleted, Err(StoreError::InUse { .. })),
        "held targets need it too: {deleted:?}"
    );
    fixture
        .operators
        .cancel_deployment(&caller("CancelDeployment"), deployment.deployment.id)
        .await
        .unwrap();
    fixture
        .operators
        .delete_bundle(&caller("DeleteBundle"), "app:1")
        .await
        .unwrap();
    let gone = fixture
        .operators
        .create_deployment(
            &caller("CreateDeployment"),
            Fixture::order("app:1", &[&device]),
        )
        .await;
    assert!(
        matches!(gone, Err(StoreError::NotFound { kind: "bundle", .. })),
        "{gone:?}"
    );
    let retried = fixture
        .operators
        .retry_deployment(&caller("RetryDeployment"), deployment.deployment.id, &[])
        .await;
    assert!(
        matches!(retried, Err(StoreError::WrongState { .. })),
        "{retried:?}"
    );
}
