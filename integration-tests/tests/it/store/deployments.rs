//! Orders: what creating a deployment answers, and what a repeated request gets.

use kernex_integration_tests::{Database, both_databases};
use kernex_server::{
    domain::{
        attempt::State,
        rollout::{DeploymentState, Rollout},
    },
    store::{DeploymentFilter, DueCommand, NewDeployment, Page, ReportEvent, StoreError},
};
use uuid::Uuid;

use super::fixture::{Fixture, HOUR, MINUTE, caller, repeated, reused, succeeded};

both_databases![
    creating_a_deployment_returns_the_commands_that_are_due,
    the_same_request_gives_the_same_deployment,
    a_deleted_device_leaves_its_deployment_and_the_others_go_on,
];

async fn creating_a_deployment_returns_the_commands_that_are_due(database: Database) {
    let fixture = Fixture::new(database).await;
    let (free, busy) = (
        fixture.device("edge-1").await,
        fixture.device("edge-2").await,
    );
    fixture.bundle("app", "1").await;
    fixture.bundle("app", "2").await;
    let earlier = fixture.deploy("app:1", &[&busy]).await;
    let (attempt, _) = fixture.target(&earlier, &busy).await;
    fixture.report(&busy, attempt, ReportEvent::Accepted).await;
    let copied = fixture.device("edge-3").await;
    let epoch = fixture.session(&copied, 0, &[]).await.epoch;
    fixture.session(&copied, epoch, &[]).await;
    assert!(fixture.session(&copied, 0, &[]).await.conflicted);
    let order = fixture.deploy("app:2", &[&free, &busy, &copied]).await;
    let epochs = [&free, &busy, &copied].map(|device| (device.id, 9));
    let read = fixture.store.due_commands(&epochs).await.unwrap();
    let of_order = |due: &&DueCommand| due.device != busy.id;
    let read: Vec<_> = read.iter().filter(of_order).collect();
    assert_eq!((order.due.len(), read.len()), (1, 1), "{:?}", order.due);
    let (given, read) = (&order.due[0], read[0]);
    assert_eq!(given.device, free.id);
    assert_eq!(
        (given.attempt, given.run, &given.kind, &given.traceparent),
        (read.attempt, read.run, &read.kind, &read.traceparent)
    );
    assert!(given.remaining >= read.remaining && given.remaining <= HOUR + MINUTE);
    let phased = fixture.deploy("app:2", &[&busy]).await;
    assert!(phased.due.is_empty(), "it waits for the one before");
}

async fn the_same_request_gives_the_same_deployment(database: Database) {
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    fixture.bundle("app", "1").await;
    fixture.bundle("app", "2").await;
    let request = repeated("CreateDeployment", Uuid::now_v7());
    let first = fixture
        .operators
        .create_deployment(&request, Fixture::order("app:1", &[&device]))
        .await
        .unwrap();
    let again = fixture
        .operators
        .create_deployment(&request, Fixture::order("app:1", &[&device]))
        .await
        .unwrap();
    assert_eq!(
        (&first.deployment, &first.devices),
        (&again.deployment, &again.devices)
    );
    assert!(
        again.due.is_empty(),
        "what the first one gave has been pushed"
    );
    let other = fixture
        .operators
        .create_deployment(&reused(&request), Fixture::order("app:2", &[&device]))
        .await;
    assert!(matches!(other, Err(StoreError::RequestIdReused)));
    let empty = fixture
        .operators
        .create_deployment(&caller("CreateDeployment"), Fixture::order("app:1", &[]))
        .await;
    assert!(matches!(empty, Err(StoreError::NoTargets)));
    let missing = fixture
        .operators
        .create_deployment(
            &caller("CreateDeployment"),
            Fixture::order("app:9", &[&device]),
        )
        .await;
    assert!(matches!(
        missing,
        Err(StoreError::NotFound { kind: "bundle", .. })
    ));
    assert_eq!(
        fixture
            .view
            .list_deployments(&DeploymentFilter::default(), Page::first(10))
            .await
            .unwrap()
            .items
            .len(),
        1
    );
    assert_eq!(fixture.targets(first.deployment.id).await.len(), 1);
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
