//! A newer deployment and an older one of the same bundle name.

use std::time::Duration;

use kernex_integration_tests::{Database, both_databases};
use kernex_server::{
    domain::{
        attempt::State,
        rollout::{DeploymentResult, DeploymentState, Rollout},
        schedule::Schedule,
    },
    store::{NewDeployment, ReportEvent, Terms},
};

use super::fixture::{Fixture, caller, succeeded};

both_databases![
    a_device_gets_one_attempt_per_bundle_name_and_the_oldest_first,
    a_newer_deployment_supersedes_held_and_scheduled_targets,
];

async fn a_device_gets_one_attempt_per_bundle_name_and_the_oldest_first(database: Database) {
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    for (name, version) in [("app", "1"), ("app", "2"), ("db", "1")] {
        fixture.bundle(name, version).await;
    }
    let epoch = fixture.session(&device, 0, &[]).await.epoch;
    let first = fixture.deploy("app:1", &[&device]).await;
    let (attempt, _) = fixture.target(&first, &device).await;
    fixture
        .report(&device, attempt, ReportEvent::Accepted)
        .await;
    let second = fixture.deploy("app:2", &[&device]).await;
    assert_eq!(
        fixture.state(&first, &device).await,
        State::Accepted,
        "what has begun is left to end"
    );
    fixture.deploy("db:1", &[&device]).await;
    let due: Vec<String> = fixture
        .due(&device, epoch)
        .await
        .into_iter()
        .map(|(what, _)| what)
        .collect();
    assert_eq!(
        due,
        ["deploy db:1"],
        "names are independent, app:2 waits for app:1"
    );
    fixture.report(&device, attempt, succeeded("1", b"1")).await;
    let due: Vec<String> = fixture
        .due(&device, epoch)
        .await
        .into_iter()
        .map(|(what, _)| what)
        .collect();
    assert_eq!(due, ["deploy app:2", "deploy db:1"]);
    let third = fixture.deploy("app:1", &[&device]).await;
    assert_eq!(fixture.state(&second, &device).await, State::Superseded);
    assert_eq!(fixture.state(&third, &device).await, State::Pending);
    let second = fixture
        .view
        .get_deployment(second.deployment.id)
        .await
        .unwrap();
    assert_eq!(second.result, Some(DeploymentResult::Superseded));
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
