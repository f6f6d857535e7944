//! Copies of a device, and epochs that were never issued.

use kernex_integration_tests::{Database, both_databases};
use kernex_proto::ids::JournalId;
use kernex_server::{
    domain::{
        attempt::State,
        device::{Conflict, DeviceStatus, EPOCHS_FORGOTTEN},
    },
    store::{ReportEvent, StoreError},
};

use super::fixture::{Fixture, caller};

both_databases![
    a_copy_is_recognised_and_gets_no_commands_until_resolved,
    what_a_copy_holds_changes_no_attempt,
    of_two_journals_the_last_confirmed_one_is_kept,
    an_epoch_that_was_never_issued_is_a_conflict_and_locks_nobody_out,
    a_made_up_epoch_before_the_first_session_locks_nobody_out,
    a_journal_that_was_replaced_is_refused,
];

async fn a_copy_is_recognised_and_gets_no_commands_until_resolved(database: Database) {
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    fixture.bundle("app", "1").await;
    let first = fixture.session(&device, 0, &[]).await;
    let second = fixture.session(&device, first.epoch, &[]).await;
    fixture.deploy("app:1", &[&device]).await;
    let copy = fixture.session(&device, first.epoch, &[]).await;
    assert!(copy.conflicted);
    assert_eq!(
        fixture.view.get_device("edge-1").await.unwrap().status,
        DeviceStatus::Conflicted
    );
    assert!(fixture.due(&device, copy.epoch).await.is_empty());
    assert!(fixture.session(&device, second.epoch, &[]).await.conflicted);
    let kept = fixture.session(&device, copy.epoch, &[]).await;
    // This epoch was issued and never confirmed, so no copy has it on its disk.
    fixture
        .open(fixture.opening(&device, second.epoch, &[]))
        .await
        .unwrap();
    let resolved = fixture
        .operators
        .resolve_device(&caller("ResolveDevice"), "edge-1", false)
        .await
        .unwrap();
    assert_eq!(
        resolved.status,
        DeviceStatus::Offline,
        "whoever is connected has to come back"
    );
    let kept = fixture.session(&device, kept.epoch, &[]).await;
    assert!(!kept.conflicted);
    assert_eq!(fixture.due(&device, kept.epoch).await.len(), 1);
    for given_up in [second.epoch, copy.epoch] {
        let refused = fixture.open(fixture.opening(&device, given_up, &[])).await;
        assert!(matches!(refused, Err(StoreError::CopyGivenUp(name)) if name == "edge-1"));
    }
    assert_eq!(
        fixture.view.get_device("edge-1").await.unwrap().status,
        DeviceStatus::Online,
        "undisturbed"
    );
    let again = fixture
        .operators
        .resolve_device(&caller("ResolveDevice"), "edge-1", false)
        .await;
    assert!(matches!(again, Err(StoreError::NotConflicted(_))));
}

async fn what_a_copy_holds_changes_no_attempt(database: Database) {
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    fixture.bundle("app", "1").await;
    let first = fixture.session(&device, 0, &[]).await;
    let deployment = fixture.deploy("app:1", &[&device]).await;
    let (attempt, _) = fixture.target(&deployment, &device).await;
    fixture
        .report(&device, attempt, ReportEvent::Accepted)
        .await;
    let held = [(attempt, State::Accepted)];
    fixture.session(&device, first.epoch, &held).await;
    // It was made before the deployment. Of the device itself this list would mean that its journal
    // is lost.
    let copy = fixture.session(&device, first.epoch, &[]).await;
    assert!(copy.conflicted);
    assert_eq!(fixture.state(&deployment, &device).await, State::Accepted);
}

async fn of_two_journals_the_last_confirmed_one_is_kept(database: Database) {
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    let mut reinstalled = device.clone();
    reinstalled.journal = JournalId::generate();
    let old = fixture.session(&device, 0, &[]).await;
    let new = fixture.session(&reinstalled, 0, &[]).await;
    assert!(
        fixture.session(&device, old.epoch, &[]).await.conflicted,
        "a retired journal came back"
    );
    let mut third = device.clone();
    third.journal = JournalId::generate();
    assert!(
        fixture.session(&third, 0, &[]).await.conflicted,
        "and a third copy is no better"
    );
    let new = fixture.session(&reinstalled, new.epoch, &[]).await;
    fixture
        .operators
        .resolve_device(&caller("ResolveDevice"), "edge-1", false)
        .await
        .unwrap();
    for copy in [&device, &third] {
        let refused = fixture.open(fixture.opening(copy, 99, &[])).await;
        assert!(matches!(refused, Err(StoreError::CopyGivenUp(_))));
    }
    assert!(
        !fixture
            .session(&reinstalled, new.epoch, &[])
            .await
            .conflicted
    );
}

async fn an_epoch_that_was_never_issued_is_a_conflict_and_locks_nobody_out(database: Database) {
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    let shown = async || fixture.view.get_device("edge-1").await.unwrap();
    let honest = fixture.session(&device, 0, &[]).await;
    let mut elsewhere = device.clone();
    elsewhere.journal = JournalId::generate();
    for liar in [&device, &elsewhere] {
        for told in [
            u64::MAX,
            i64::MAX as u64,
            honest.epoch + EPOCHS_FORGOTTEN + 1,
        ] {
            let refused = fixture.open(fixture.opening(liar, told, &[])).await;
            let named = matches!(&refused, Err(StoreError::EpochNotIssued { told: said, issued, .. }) if *said == told && *issued == honest.epoch);
            assert!(named, "{refused:?}");
            assert_eq!(shown().await.epoch, honest.epoch, "the number stays");
            assert_eq!(shown().await.conflict, Some(Conflict::EpochNotIssued));
        }
    }
    let conflicts = fixture.kinds_of_events().await;
    assert_eq!(
        conflicts
            .iter()
            .filter(|kind| *kind == "device.conflicted")
            .count(),
        1
    );
    // The honest agent is connected without commands, until an operator resolves the conflict.
    let doubted = fixture.session(&device, honest.epoch, &[]).await;
    assert!(doubted.conflicted && doubted.epoch == honest.epoch + 1);
    fixture
        .operators
        .resolve_device(&caller("ResolveDevice"), "edge-1", false)
        .await
        .unwrap();
    assert_eq!(shown().await.conflict, None);
    let back = fixture.session(&device, doubted.epoch, &[]).await;
    assert!(!back.conflicted && back.epoch == doubted.epoch + 1);
    // An agent that believed a made-up epoch has to begin a new journal, which is accepted.
    let fresh = fixture.session(&elsewhere, 0, &[]).await;
    assert!(!fresh.conflicted && fresh.epoch == back.epoch + 1);
}

async fn a_made_up_epoch_before_the_first_session_locks_nobody_out(database: Database) {
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    let refused = fixture.open(fixture.opening(&device, u64::MAX, &[])).await;
    assert!(matches!(refused, Err(StoreError::EpochNotIssued { .. })));
    fixture
        .operators
        .resolve_device(&caller("ResolveDevice"), "edge-1", false)
        .await
        .unwrap();
    let first = fixture.session(&device, 0, &[]).await;
    assert!(!first.conflicted && first.epoch == 1);
}

async fn a_journal_that_was_replaced_is_refused(database: Database) {
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    fixture.session(&device, 0, &[]).await;
    let mut reinstalled = device.clone();
    reinstalled.journal = JournalId::generate();
    assert!(!fixture.session(&reinstalled, 0, &[]).await.conflicted);
    assert!(fixture.session(&device, 9, &[]).await.conflicted);
}
