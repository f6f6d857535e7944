//! Sessions in the database: epochs, copies, and the list of attempts in a Hello.

use std::time::Duration;

use kernex_integration_tests::{Database, both_databases};
use kernex_proto::ids::Digest;
use kernex_server::{
    domain::{
        attempt::State,
        device::{DeviceStatus, away::AwayReason},
    },
    store::{
        DownloadError, NewEnrollmentToken, OpenSession, ReplicaId, ReportEvent, SessionChange,
        SessionChanged, StoreError,
    },
};

use super::fixture::{Device, Fixture, MINUTE, caller, succeeded, token};

both_databases![
    epochs_grow_and_the_newest_session_wins,
    session_steps_commit_together_and_a_refused_one_changes_nothing,
    sessions_that_open_in_one_transaction_are_reconciled_apart,
    online_means_a_session_and_a_live_lease,
    when_a_replica_stops_its_sessions_end,
    an_older_protocol_revision_is_refused_until_an_operator_allows_it,
    a_session_ends_when_another_replica_opens_a_newer_one,
    a_clock_that_jumps_expires_nothing,
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
    // The permission is good once: the next revision is remembered again.
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
        replica: ReplicaId::generate(),
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
