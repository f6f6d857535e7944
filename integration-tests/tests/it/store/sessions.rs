//! Sessions in the database: epochs, copies, and the list of attempts in a Hello.

use std::time::Duration;

use kernex_integration_tests::{Database, both_databases};
use kernex_proto::{
    ids::{Digest, JournalId},
    v1::Disposition,
};
use kernex_server::{
    domain::{
        attempt::{FailureReason, State},
        device::{Conflict, DeviceStatus, EPOCHS_FORGOTTEN, away::AwayReason},
    },
    store::{
        DownloadError, NewEnrollmentToken, OpenSession, ReportEvent, SessionChange, SessionChanged,
        StoreError,
    },
};

use uuid::Uuid;

use super::fixture::{Device, Fixture, MINUTE, caller, succeeded, token};

both_databases![
    epochs_grow_and_the_newest_session_wins,
    session_steps_commit_together_and_a_refused_one_changes_nothing,
    sessions_that_open_in_one_transaction_are_reconciled_apart,
    online_means_a_session_and_a_live_lease,
    when_a_replica_stops_its_sessions_end,
    a_copy_is_recognised_and_gets_no_commands_until_resolved,
    of_two_journals_the_last_confirmed_one_is_kept,
    an_epoch_that_was_never_issued_is_a_conflict_and_locks_nobody_out,
    a_made_up_epoch_before_the_first_session_locks_nobody_out,
    after_a_restore_the_epoch_of_the_agent_is_taken_over,
    an_older_protocol_revision_is_refused_until_an_operator_allows_it,
    a_session_ends_when_another_replica_opens_a_newer_one,
    a_clock_that_jumps_expires_nothing,
    a_journal_that_was_replaced_is_refused,
    an_accepted_attempt_that_a_device_does_not_list_fails_as_journal_lost,
    after_a_restore_an_attempt_is_pushed_again_to_the_same_journal,
    an_attempt_that_a_device_lists_counts_as_accepted,
    downloads_need_the_live_token_and_an_open_attempt,
];

async fn epochs_grow_and_the_newest_session_wins(database: Database) {
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    let first = fixture.session(&device, 0, &[]).await;
    let second = fixture.session(&device, first.epoch, &[]).await;
    assert!(second.epoch > first.epoch && !second.conflicted);
    fixture.close(device.id, first.epoch).await.unwrap();
    assert_eq!(
        fixture.view.get_device("edge-1").await.unwrap().status,
        DeviceStatus::Online
    );
    assert!(matches!(
        fixture.confirm(device.id, first.epoch).await,
        Err(StoreError::NotFound { .. })
    ));
    fixture.close(device.id, second.epoch).await.unwrap();
    assert_eq!(
        fixture.view.get_device("edge-1").await.unwrap().status,
        DeviceStatus::Offline
    );
    // A database restored from a backup knows less than its agents.
    assert_eq!(fixture.session(&device, 77, &[]).await.epoch, 78);
}

async fn session_steps_commit_together_and_a_refused_one_changes_nothing(database: Database) {
    let fixture = Fixture::new(database).await;
    let (first, second) = (
        fixture.device("edge-1").await,
        fixture.device("edge-2").await,
    );
    let stranger = Device {
        key: Digest::of(b"another key"),
        ..fixture.device("edge-3").await
    };
    let open = |device: &Device| SessionChange::Open(Box::new(fixture.opening(device, 0, &[])));
    let answers = fixture
        .store
        .change_sessions(&[open(&first), open(&stranger), open(&second), open(&first)])
        .await
        .unwrap();
    let epochs: Vec<_> = answers
        .iter()
        .map(|answer| match answer {
            Ok(SessionChanged::Opened(opened)) => Some(opened.epoch),
            other => {
                assert!(
                    matches!(other, Err(StoreError::NotFound { .. })),
                    "{other:?}"
                );
                None
            }
        })
        .collect();
    assert_eq!(
        epochs,
        [Some(1), None, Some(1), Some(2)],
        "in order, the newest last"
    );
    let steps = [
        SessionChange::Confirm(first.id, 1),
        SessionChange::Confirm(first.id, 2),
        SessionChange::Confirm(second.id, 1),
        SessionChange::Close(second.id, 1, AwayReason::Closed.into()),
    ];
    let answers = fixture.store.change_sessions(&steps).await.unwrap();
    assert!(
        matches!(answers[0], Err(StoreError::NotFound { .. })),
        "{answers:?}"
    );
    assert!(
        answers[1..]
            .iter()
            .all(|answer| matches!(answer, Ok(SessionChanged::Done))),
        "{answers:?}"
    );
    fixture
        .store
        .renew_lease(fixture.replica, Duration::from_secs(15))
        .await
        .unwrap();
    let status =
        async |device: &Device| fixture.view.get_device(&device.name).await.unwrap().status;
    assert_eq!(status(&first).await, DeviceStatus::Online);
    assert_eq!(status(&second).await, DeviceStatus::Offline);
    assert_eq!(status(&stranger).await, DeviceStatus::Offline);
    let kinds = fixture.kinds_of_events().await;
    let of = |kind: &str| kinds.iter().filter(|other| *other == kind).count();
    assert_eq!(
        (of("device.online"), of("device.offline")),
        (2, 1),
        "{kinds:?}"
    );
}

async fn sessions_that_open_in_one_transaction_are_reconciled_apart(database: Database) {
    let fixture = Fixture::new(database).await;
    let devices = [
        fixture.device("edge-1").await,
        fixture.device("edge-2").await,
    ];
    fixture.bundle("app", "1").await;
    let mut attempts = Vec::new();
    for device in &devices {
        let epoch = fixture.session(device, 0, &[]).await.epoch;
        let deployment = fixture.deploy("app:1", &[device]).await;
        let (attempt, _) = fixture.target(&deployment, device).await;
        fixture.store.mark_sent(&[(attempt, epoch)]).await.unwrap();
        fixture.report(device, attempt, ReportEvent::Accepted).await;
        attempts.push(attempt);
    }
    // The first device lists both attempts; the second, which accepted one of them, lists none.
    let held = attempts
        .iter()
        .map(|attempt| (*attempt, State::Accepted))
        .collect::<Vec<_>>();
    let open =
        |device: &Device, held| SessionChange::Open(Box::new(fixture.opening(device, 1, held)));
    let steps = [open(&devices[0], &held), open(&devices[1], &[])];
    let answers = fixture.store.change_sessions(&steps).await.unwrap();
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    let due = fixture
        .store
        .due_commands(&devices.each_ref().map(|device| (device.id, 2)))
        .await
        .unwrap();
    let due: Vec<_> = due
        .iter()
        .map(|command| (command.device, command.attempt))
        .collect();
    assert_eq!(
        due,
        [(devices[1].id, attempts[1])],
        "only what its own device does not hold"
    );
}

async fn online_means_a_session_and_a_live_lease(database: Database) {
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    let status = async || fixture.view.get_device("edge-1").await.unwrap().status;
    let opened = fixture
        .open(fixture.opening(&device, 0, &[]))
        .await
        .unwrap();
    assert_eq!(status().await, DeviceStatus::Offline);
    fixture.confirm(device.id, opened.epoch).await.unwrap();
    fixture
        .store
        .renew_lease(fixture.replica, Duration::from_secs(15))
        .await
        .unwrap();
    assert_eq!(status().await, DeviceStatus::Online);
    fixture.clock.advance(Duration::from_secs(16));
    assert_eq!(status().await, DeviceStatus::Offline);
    fixture
        .store
        .renew_lease(fixture.replica, Duration::from_secs(15))
        .await
        .unwrap();
    assert_eq!(status().await, DeviceStatus::Online);
    // The sessions of a replica whose lease has run out end for good.
    fixture.clock.advance(MINUTE * 3);
    fixture.store.close_orphans().await.unwrap();
    fixture
        .store
        .renew_lease(fixture.replica, Duration::from_secs(15))
        .await
        .unwrap();
    assert_eq!(status().await, DeviceStatus::Offline);
    assert!(
        fixture
            .kinds_of_events()
            .await
            .contains(&"device.offline".to_owned())
    );
}

async fn when_a_replica_stops_its_sessions_end(database: Database) {
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    fixture.session(&device, 0, &[]).await;
    fixture
        .store
        .close_replica_sessions(fixture.replica, AwayReason::Drained)
        .await
        .unwrap();
    assert_eq!(
        fixture.view.get_device("edge-1").await.unwrap().status,
        DeviceStatus::Offline
    );
}

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
    // Issued and never confirmed: no copy has it on its disk.
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

async fn after_a_restore_the_epoch_of_the_agent_is_taken_over(database: Database) {
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    let opened = fixture.session(&device, EPOCHS_FORGOTTEN, &[]).await;
    assert!(!opened.conflicted);
    assert_eq!(opened.epoch, EPOCHS_FORGOTTEN + 1);
}

async fn an_older_protocol_revision_is_refused_until_an_operator_allows_it(database: Database) {
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    let opening = |revision, last| OpenSession {
        protocol_revision: revision,
        ..fixture.opening(&device, last, &[])
    };
    let first = fixture.open(opening(1, 0)).await.unwrap();
    let second = fixture.open(opening(2, first.epoch)).await.unwrap();
    let refused = fixture.open(opening(1, second.epoch)).await;
    assert!(
        matches!(&refused, Err(StoreError::ProtocolDowngraded { name, spoken: 1, before: 2 }) if name == "edge-1"),
        "{refused:?}"
    );
    let shown = fixture.view.get_device("edge-1").await.unwrap();
    assert_eq!(
        (shown.epoch, shown.protocol_revision, shown.conflict),
        (second.epoch, 2, None),
        "nothing changed"
    );
    let allowed = fixture
        .operators
        .resolve_device(&caller("ResolveDevice"), "edge-1", true)
        .await
        .unwrap();
    assert_eq!(allowed.protocol_revision, 0);
    let third = fixture.open(opening(1, second.epoch)).await.unwrap();
    // Once only: the next revision is remembered again.
    let fourth = fixture.open(opening(2, third.epoch)).await.unwrap();
    assert!(fixture.open(opening(1, fourth.epoch)).await.is_err());
    // For a new key no revision is known yet.
    let replacing = NewEnrollmentToken {
        replaces_device: Some("edge-1".into()),
        ..token(1)
    };
    let replacing = fixture.token(replacing).await;
    fixture.enrol(replacing, "edge-1").await;
    assert_eq!(
        fixture
            .view
            .get_device("edge-1")
            .await
            .unwrap()
            .protocol_revision,
        0
    );
}

async fn a_session_ends_when_another_replica_opens_a_newer_one(database: Database) {
    let fixture = Fixture::new(database).await;
    let (device, other) = (
        fixture.device("edge-1").await,
        fixture.device("edge-2").await,
    );
    let first = fixture.session(&device, 0, &[]).await;
    let stays = fixture.session(&other, 0, &[]).await;
    let here = [(device.id, first.epoch), (other.id, stays.epoch)];
    assert_eq!(
        fixture
            .store
            .sessions_lost(fixture.replica, &here)
            .await
            .unwrap(),
        []
    );
    let elsewhere = OpenSession {
        replica: Uuid::now_v7(),
        ..fixture.opening(&device, first.epoch, &[])
    };
    fixture.open(elsewhere).await.unwrap();
    assert_eq!(
        fixture
            .store
            .sessions_lost(fixture.replica, &here)
            .await
            .unwrap(),
        [here[0]]
    );
}

async fn a_clock_that_jumps_expires_nothing(database: Database) {
    const YEAR: i64 = 365 * 24 * 3600;
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    fixture.bundle("app", "1").await;
    let opened = fixture.session(&device, 0, &[]).await;
    let deployment = fixture.deploy("app:1", &[&device]).await;
    for jump in [YEAR, -YEAR] {
        fixture.clock.jump(jump);
        assert!(!fixture.store.trusts_clock());
        assert_eq!(fixture.store.expire_due().await.unwrap(), 0);
        fixture.store.close_orphans().await.unwrap();
        assert_eq!(
            fixture.due(&device, opened.epoch).await.len(),
            1,
            "commands go on"
        );
        fixture.store.note_clock(false).await.unwrap();
        fixture.bundle(&format!("app{jump}"), "1").await;
        let ordered = fixture.deploy(&format!("app{jump}:1"), &[&device]).await;
        let (attempt, _) = fixture.target(&ordered, &device).await;
        fixture
            .report(&device, attempt, ReportEvent::Accepted)
            .await;
        fixture.clock.jump(-jump);
        assert!(fixture.store.trusts_clock());
        assert_eq!(
            fixture.store.expire_due().await.unwrap(),
            0,
            "the stamps are back as well"
        );
    }
    assert_eq!(fixture.state(&deployment, &device).await, State::Pending);
    fixture.clock.advance(MINUTE * 61);
    // With it what was accepted while the clock was behind; what was accepted while it was
    // ahead has a year more.
    assert_eq!(fixture.store.expire_due().await.unwrap(), 2);
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
    // It arrives after all, as a late outcome.
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

async fn downloads_need_the_live_token_and_an_open_attempt(database: Database) {
    let fixture = Fixture::new(database).await;
    let (device, other) = (
        fixture.device("edge-1").await,
        fixture.device("edge-2").await,
    );
    let bundle = fixture.bundle("app", "1").await;
    fixture.session(&device, 0, &[]).await;
    let opened = fixture.session(&other, 0, &[]).await;
    let deployment = fixture.deploy("app:1", &[&device]).await;
    let token = |device: &Device| Digest::of(device.name.as_bytes());
    let may = async |device: &Device, token: Digest| {
        fixture
            .store
            .authorise_download(device.id, token, bundle.digest)
            .await
    };
    assert_eq!(may(&device, token(&device)).await.unwrap(), bundle);
    assert!(matches!(
        may(&device, Digest::of(b"guess")).await,
        Err(DownloadError::Unauthenticated)
    ));
    assert!(matches!(
        may(&other, token(&other)).await,
        Err(DownloadError::NotATarget)
    ));
    fixture.close(other.id, opened.epoch).await.unwrap();
    assert!(matches!(
        may(&other, token(&other)).await,
        Err(DownloadError::Unauthenticated)
    ));
    let (attempt, _) = fixture.target(&deployment, &device).await;
    fixture.report(&device, attempt, succeeded("1", b"1")).await;
    assert!(matches!(
        may(&device, token(&device)).await,
        Err(DownloadError::NotATarget)
    ));
}
