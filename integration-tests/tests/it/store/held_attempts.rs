//! The attempts that a device lists in Hello, compared with the rows.

use kernex_integration_tests::{Database, both_databases};
use kernex_proto::{ids::JournalId, v1::Disposition};
use kernex_server::{
    domain::{
        attempt::{FailureReason, State},
        device::EPOCHS_FORGOTTEN,
    },
    store::ReportEvent,
};

use super::fixture::{Device, Fixture, succeeded};

both_databases![
    after_a_restore_the_epoch_of_the_agent_is_taken_over,
    an_accepted_attempt_that_a_device_does_not_list_fails_as_journal_lost,
    after_a_restore_an_attempt_is_pushed_again_to_the_same_journal,
    an_attempt_that_a_device_lists_counts_as_accepted,
];

async fn after_a_restore_the_epoch_of_the_agent_is_taken_over(database: Database) {
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    let opened = fixture.session(&device, EPOCHS_FORGOTTEN, &[]).await;
    assert!(!opened.conflicted);
    assert_eq!(opened.epoch, EPOCHS_FORGOTTEN + 1);
}

async fn an_accepted_attempt_that_a_device_does_not_list_fails_as_journal_lost(database: Database) {
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    fixture.bundle("app", "1").await;
    let opened = fixture.session(&device, 0, &[]).await;
    let deployment = fixture.deploy("app:1", &[&device]).await;
    let (attempt, _) = fixture.target(&deployment, &device).await;
    fixture
        .report(&device, attempt, ReportEvent::Accepted)
        .await;
    let opened = fixture
        .session(&device, opened.epoch, &[(attempt, State::Running)])
        .await;
    assert_eq!(fixture.state(&deployment, &device).await, State::Accepted);
    assert!(
        fixture.due(&device, opened.epoch).await.is_empty(),
        "it is there"
    );
    let wiped = Device {
        journal: JournalId::generate(),
        ..device.clone()
    };
    fixture.session(&wiped, opened.epoch, &[]).await;
    let (_, target) = fixture.target(&deployment, &device).await;
    assert_eq!(
        (target.state, target.reason),
        (State::Failed, Some(FailureReason::JournalLost))
    );
    // The outcome arrives after all and is late.
    assert_eq!(
        fixture.report(&device, attempt, succeeded("1", b"1")).await,
        Disposition::Late
    );
    let (_, target) = fixture.target(&deployment, &device).await;
    assert!(target.state == State::Failed && target.late.is_some());
    assert_eq!(
        fixture.view.get_device("edge-1").await.unwrap().releases[0].version,
        "1"
    );
}

async fn after_a_restore_an_attempt_is_pushed_again_to_the_same_journal(database: Database) {
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    fixture.bundle("app", "1").await;
    let opened = fixture.session(&device, 0, &[]).await;
    let deployment = fixture.deploy("app:1", &[&device]).await;
    let (attempt, _) = fixture.target(&deployment, &device).await;
    fixture
        .store
        .mark_sent(&[(attempt, opened.epoch)])
        .await
        .unwrap();
    fixture
        .report(&device, attempt, ReportEvent::Accepted)
        .await;
    // Its outcome was acknowledged after the backup, so the device does not list it any more.
    let opened = fixture.session(&device, opened.epoch, &[]).await;
    assert_eq!(fixture.state(&deployment, &device).await, State::Accepted);
    let due = fixture.due(&device, opened.epoch).await;
    assert_eq!(
        due.iter().map(|(_, due)| *due).collect::<Vec<_>>(),
        [attempt]
    );
    fixture
        .store
        .mark_sent(&[(attempt, opened.epoch)])
        .await
        .unwrap();
    assert!(fixture.due(&device, opened.epoch).await.is_empty());
    assert_eq!(
        fixture.report(&device, attempt, succeeded("1", b"1")).await,
        Disposition::Applied
    );
}

async fn an_attempt_that_a_device_lists_counts_as_accepted(database: Database) {
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    fixture.bundle("app", "1").await;
    let deployment = fixture.deploy("app:1", &[&device]).await;
    let (attempt, _) = fixture.target(&deployment, &device).await;
    let opened = fixture
        .session(&device, 0, &[(attempt, State::Succeeded)])
        .await;
    assert!(
        fixture.due(&device, opened.epoch).await.is_empty(),
        "its outcome is on the way"
    );
    assert_eq!(fixture.state(&deployment, &device).await, State::Accepted);
}
