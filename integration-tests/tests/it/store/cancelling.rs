//! A cancel, for attempts that wait, that run, and that were just pushed.

use kernex_integration_tests::{Database, both_databases};
use kernex_proto::v1::Disposition;
use kernex_server::{
    domain::{
        attempt::State,
        rollout::{DeploymentResult, DeploymentState},
    },
    store::{ReportEvent, StoreError},
};
use uuid::Uuid;

use super::fixture::{Fixture, caller, cancelled, repeated};

both_databases![
    a_cancel_ends_what_waits_and_asks_what_runs_to_stop,
    an_attempt_pushed_but_never_received_is_cancelled_at_once,
    a_cancel_knows_of_pushes_that_are_not_written_yet,
    a_push_that_crossed_a_cancel_is_called_back,
];

async fn a_cancel_ends_what_waits_and_asks_what_runs_to_stop(database: Database) {
    let fixture = Fixture::new(database).await;
    let (one, two) = (
        fixture.device("edge-1").await,
        fixture.device("edge-2").await,
    );
    fixture.bundle("app", "1").await;
    let deployment = fixture.deploy("app:1", &[&one, &two]).await;
    let (attempt, _) = fixture.target(&deployment, &one).await;
    let epoch = fixture.session(&one, 0, &[]).await.epoch;
    fixture.report(&one, attempt, ReportEvent::Accepted).await;
    let request = repeated("CancelDeployment", Uuid::now_v7());
    let (stopping, devices) = fixture
        .operators
        .cancel_deployment(&request, deployment.deployment.id)
        .await
        .unwrap();
    assert_eq!(
        (stopping.state, devices.len()),
        (DeploymentState::Stopping, 2)
    );
    assert_eq!(fixture.state(&deployment, &two).await, State::Cancelled);
    assert!(fixture.target(&deployment, &one).await.1.stop_requested);
    assert_eq!(
        fixture.due(&one, epoch).await,
        [("stop".to_owned(), attempt)]
    );
    fixture
        .store
        .mark_stops_sent(&[(attempt, false, epoch)])
        .await
        .unwrap();
    assert!(fixture.due(&one, epoch).await.is_empty());
    assert_eq!(
        fixture.due(&one, epoch + 1).await.len(),
        1,
        "repeated each session until answered"
    );
    fixture.report(&one, attempt, cancelled()).await;
    assert!(fixture.due(&one, epoch + 1).await.is_empty());
    let (_, target) = fixture.target(&deployment, &one).await;
    assert!(target.state == State::Cancelled && !target.stop_requested);
    let (replayed, _) = fixture
        .operators
        .cancel_deployment(&request, deployment.deployment.id)
        .await
        .unwrap();
    assert_eq!(replayed.result, Some(DeploymentResult::Cancelled));
    let again = fixture
        .operators
        .cancel_deployment(&caller("CancelDeployment"), deployment.deployment.id)
        .await;
    assert!(matches!(again, Err(StoreError::Finished)));
}

async fn an_attempt_pushed_but_never_received_is_cancelled_at_once(database: Database) {
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    for version in ["1", "2", "3"] {
        fixture.bundle("app", version).await;
    }
    let epoch = fixture.session(&device, 0, &[]).await.epoch;
    let first = fixture.deploy("app:1", &[&device]).await;
    let (attempt, _) = fixture.target(&first, &device).await;
    fixture.store.mark_sent(&[(attempt, epoch)]).await.unwrap();
    let second = fixture.deploy("app:2", &[&device]).await;
    assert_eq!(
        fixture.state(&first, &device).await,
        State::Sent,
        "the device may have it"
    );
    // The device's list does not have it, and there is a newer one.
    let epoch = fixture.session(&device, epoch, &[]).await.epoch;
    assert_eq!(fixture.state(&first, &device).await, State::Superseded);
    assert_eq!(fixture.due(&device, epoch).await.len(), 1);
    // A push of the session before that is written late changes nothing.
    fixture
        .store
        .mark_sent(&[(attempt, epoch - 1)])
        .await
        .unwrap();
    let due = fixture.due(&device, epoch).await;
    assert_eq!(
        due.iter()
            .map(|(what, _)| what.as_str())
            .collect::<Vec<_>>(),
        ["deploy app:2"]
    );
    // This time the list comes before the newer deployment.
    let (attempt, _) = fixture.target(&second, &device).await;
    fixture.store.mark_sent(&[(attempt, epoch)]).await.unwrap();
    let epoch = fixture.session(&device, epoch, &[]).await.epoch;
    assert_eq!(
        fixture.state(&second, &device).await,
        State::Sent,
        "nothing newer came"
    );
    let third = fixture.deploy("app:3", &[&device]).await;
    assert_eq!(fixture.state(&second, &device).await, State::Superseded);
    // A stop that was requested before the list came needs no answer.
    let (attempt, _) = fixture.target(&third, &device).await;
    fixture.store.mark_sent(&[(attempt, epoch)]).await.unwrap();
    let (stopping, _) = fixture
        .operators
        .cancel_deployment(&caller("CancelDeployment"), third.deployment.id)
        .await
        .unwrap();
    assert_eq!(stopping.state, DeploymentState::Stopping);
    let epoch = fixture.session(&device, epoch, &[]).await.epoch;
    let done = fixture
        .view
        .get_deployment(third.deployment.id)
        .await
        .unwrap();
    assert_eq!(
        (done.state, done.result),
        (DeploymentState::Finished, Some(DeploymentResult::Cancelled))
    );
    assert!(fixture.due(&device, epoch).await.is_empty());
}

async fn a_cancel_knows_of_pushes_that_are_not_written_yet(database: Database) {
    let fixture = Fixture::new(database).await;
    let (one, two) = (
        fixture.device("edge-1").await,
        fixture.device("edge-2").await,
    );
    fixture.bundle("app", "1").await;
    let epoch = fixture.session(&one, 0, &[]).await.epoch;
    let flight = fixture.store.in_flight();
    let deployment = fixture.deploy("app:1", &[&one, &two]).await;
    let (pushed, waiting) = (
        fixture.target(&deployment, &one).await.0,
        fixture.target(&deployment, &two).await.0,
    );
    let read = flight.moment();
    assert!(flight.record_push(one.id, pushed, epoch, read));
    fixture
        .operators
        .cancel_deployment(&caller("CancelDeployment"), deployment.deployment.id)
        .await
        .unwrap();
    let (_, target) = fixture.target(&deployment, &one).await;
    assert!(
        target.state == State::Sent && target.stop_requested,
        "its device may have it: {target:?}"
    );
    assert_eq!(fixture.state(&deployment, &two).await, State::Cancelled);
    // A command that was read before the cancel is not pushed.
    assert!(!flight.record_push(two.id, waiting, 1, read));
    assert_eq!(
        flight
            .wait_for_refused()
            .await
            .into_iter()
            .collect::<Vec<_>>(),
        [two.id]
    );
    assert_eq!(
        fixture.due(&one, epoch).await,
        [("stop".to_owned(), pushed)]
    );
    // A pause holds back commands that were read before it, too.
    fixture.bundle("db", "1").await;
    let paused = fixture.deploy("db:1", &[&two]).await;
    let (waiting, _) = fixture.target(&paused, &two).await;
    let read = flight.moment();
    fixture
        .operators
        .pause_deployment(&caller("PauseDeployment"), paused.deployment.id, "")
        .await
        .unwrap();
    assert!(!flight.record_push(two.id, waiting, 1, read));
    assert!(flight.record_push(two.id, waiting, 1, flight.moment()));
    // The write-behind buffer writes the rest.
    fixture.store.note_pushes().await.unwrap();
    assert_eq!(fixture.state(&paused, &two).await, State::Sent);
}

async fn a_push_that_crossed_a_cancel_is_called_back(database: Database) {
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    fixture.bundle("app", "1").await;
    let epoch = fixture.session(&device, 0, &[]).await.epoch;
    let deployment = fixture.deploy("app:1", &[&device]).await;
    let (_, attempt) = fixture.due(&device, epoch).await.remove(0);
    fixture
        .operators
        .cancel_deployment(&caller("CancelDeployment"), deployment.deployment.id)
        .await
        .unwrap();
    assert_eq!(fixture.state(&deployment, &device).await, State::Cancelled);
    fixture.store.mark_sent(&[(attempt, epoch)]).await.unwrap();
    assert_eq!(
        fixture.due(&device, epoch).await,
        [("stop".to_owned(), attempt)]
    );
    fixture.deploy("app:1", &[&device]).await;
    assert_eq!(
        fixture.due(&device, epoch).await.len(),
        1,
        "its successor waits"
    );
    assert_eq!(
        fixture.report(&device, attempt, cancelled()).await,
        Disposition::Late
    );
    let (_, target) = fixture.target(&deployment, &device).await;
    assert!(target.state == State::Cancelled && target.late.is_none());
    assert_eq!(fixture.due(&device, epoch).await[0].0, "deploy app:1");
}
