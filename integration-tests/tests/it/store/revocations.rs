//! Revoked keys: their reports are not recorded, their holders are told why, and replicas hear of
//! it.

use kernex_integration_tests::{Database, both_databases};
use kernex_proto::{
    ids::Digest,
    v1::{ActiveRelease, Configure, Configured, Disposition, VitalSigns},
};
use kernex_server::{
    clock::Clock,
    domain::{attempt::State, selector::Selector},
    revocations::{Cause, Revocation},
    store::{
        BindKeyError, ConfigurationScope, HeartbeatRow, NewEnrollmentToken, NewOperatorToken,
        REVOCATIONS_KEPT, ReportEvent, Retention, Role, Store,
    },
};

use super::fixture::{Device, Fixture, HOUR, caller, enrolment, succeeded, token};

/// Enrols a new key for a device.
async fn replace(fixture: &Fixture, device: &Device, key: &[u8]) -> Device {
    let replacing = NewEnrollmentToken {
        replaces_device: Some(device.name.clone()),
        ..token(1)
    };
    let id = fixture.token(replacing).await;
    fixture.store.enroll(enrolment(id, "", key)).await.unwrap();
    Device {
        key: Digest::of(key),
        ..device.clone()
    }
}

fn heartbeat(device: &Device, epoch: u64) -> HeartbeatRow {
    HeartbeatRow {
        device: device.id,
        epoch,
        vital_signs: VitalSigns {
            cpu_percent: 99.0,
            ..Default::default()
        },
        releases: Some(vec![ActiveRelease {
            name: "made-up".into(),
            version: "1".into(),
            digest: Digest::of(b"made up").to_string(),
            ..Default::default()
        }]),
        leftovers: None,
    }
}

both_databases![
    reports_under_a_replaced_key_are_not_recorded,
    reports_of_a_deleted_device_are_not_recorded,
    a_revoked_key_is_refused_with_its_cause_for_ninety_days,
    a_replica_reads_the_revocations_after_a_given_number,
    a_revocation_is_announced_after_its_commit_and_never_before,
];

async fn reports_under_a_replaced_key_are_not_recorded(database: Database) {
    let fixture = Fixture::new(database).await;
    let (device, other) = (
        fixture.device("edge-1").await,
        fixture.device("edge-2").await,
    );
    fixture.bundle("app", "1").await;
    let everywhere = ConfigurationScope::Selector(Selector::parse("*").unwrap());
    let wanted = Configure {
        values: [("SITE".to_owned(), "berlin".to_owned())].into(),
        ..Default::default()
    };
    fixture
        .operators
        .set_configuration(&caller("SetConfiguration"), "all", &everywhere, &wanted, 0)
        .await
        .unwrap();
    fixture
        .store
        .reconcile_configurations(&[device.id])
        .await
        .unwrap();
    let epoch = fixture.session(&device, 0, &[]).await.epoch;
    fixture.session(&other, 0, &[]).await;
    let deployment = fixture.deploy("app:1", &[&device, &other]).await;
    let (attempt, _) = fixture.target(&deployment, &device).await;
    let (others, _) = fixture.target(&deployment, &other).await;
    fixture.store.mark_sent(&[(attempt, epoch)]).await.unwrap();
    assert_eq!(
        fixture
            .report_in(&device, epoch, attempt, ReportEvent::Accepted)
            .await,
        Some(Disposition::Applied)
    );

    let new = replace(&fixture, &device, b"new disk").await;
    assert_eq!(
        fixture
            .report_in(&device, epoch, attempt, succeeded("forged", b"forged"))
            .await,
        None
    );
    let answer = Configured {
        revision: 1,
        applied: true,
        active_revision: 1,
        ..Default::default()
    };
    fixture
        .store
        .configured(device.id, epoch, &answer)
        .await
        .unwrap();
    fixture
        .store
        .record_heartbeats(&[heartbeat(&device, epoch).into()])
        .await
        .unwrap();
    assert_eq!(
        fixture.report(&other, others, ReportEvent::Accepted).await,
        Disposition::Applied,
        "others go on"
    );

    let shown = fixture.view.get_device("edge-1").await.unwrap();
    assert!(
        shown.releases.is_empty() && shown.drifts.is_empty(),
        "{shown:?}"
    );
    assert!(
        shown
            .vital_signs
            .is_none_or(|signs| signs.cpu_percent == 0.0),
        "no vital signs of it"
    );
    let configured = fixture
        .view
        .device_configuration("edge-1")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(configured.active_revision, 0);
    assert_eq!(fixture.state(&deployment, &device).await, State::Accepted);

    let opened = fixture.session(&new, 0, &[]).await;
    assert!(opened.epoch > epoch && !opened.conflicted);
    assert_eq!(
        fixture.state(&deployment, &device).await,
        State::Failed,
        "the new machine does not have it"
    );
    let late = fixture
        .report_in(&new, opened.epoch, attempt, succeeded("1", b"1"))
        .await;
    assert_eq!(late, Some(Disposition::Late), "its own words count");
}

async fn reports_of_a_deleted_device_are_not_recorded(database: Database) {
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    fixture.bundle("app", "1").await;
    let epoch = fixture.session(&device, 0, &[]).await.epoch;
    let deployment = fixture.deploy("app:1", &[&device]).await;
    let (attempt, _) = fixture.target(&deployment, &device).await;
    fixture
        .report_in(&device, epoch, attempt, ReportEvent::Accepted)
        .await;
    fixture
        .operators
        .delete_device(&caller("DeleteDevice"), "edge-1", &[])
        .await
        .unwrap();
    assert_eq!(
        fixture
            .report_in(&device, epoch, attempt, succeeded("1", b"1"))
            .await,
        None
    );
    let (_, target) = fixture.target(&deployment, &device).await;
    assert_eq!(
        (target.state, target.late.is_some()),
        (State::Cancelled, false),
        "{target:?}"
    );
}

async fn a_revoked_key_is_refused_with_its_cause_for_ninety_days(database: Database) {
    let fixture = Fixture::new(database).await;
    let old = fixture.device("edge-1").await;
    let new = replace(&fixture, &old, b"new disk").await;
    fixture
        .operators
        .delete_device(&caller("DeleteDevice"), "edge-1", &[])
        .await
        .unwrap();
    let keys = fixture
        .store
        .revoked_keys(&[old.id])
        .await
        .unwrap()
        .remove(&old.id)
        .unwrap();
    let told: Vec<_> = keys
        .iter()
        .map(|key| (key.key.digest, key.cause, key.device_name.as_str()))
        .collect();
    assert_eq!(
        told,
        [
            (new.key, Cause::Deleted, "edge-1"),
            (old.key, Cause::Replaced, "edge-1")
        ],
        "the newest first"
    );

    let id = fixture.token(token(9)).await;
    let again = || fixture.store.enroll(enrolment(id, "edge-1", b"new disk"));
    let refused = again().await;
    assert!(
        matches!(&refused, Err(BindKeyError::KeyRevoked { cause: Cause::Deleted, device_name }) if device_name == "edge-1"),
        "{refused:?}"
    );
    fixture.clock.advance(REVOCATIONS_KEPT + HOUR);
    fixture.store.prune(Retention::default()).await.unwrap();
    assert!(
        fixture
            .store
            .revoked_keys(&[old.id])
            .await
            .unwrap()
            .is_empty()
    );
    let id = fixture.token(token(1)).await;
    let forgotten = fixture
        .store
        .enroll(enrolment(id, "edge-1", b"new disk"))
        .await
        .unwrap();
    assert_ne!(
        forgotten.device, old.id,
        "another device, as any key would be"
    );
}

async fn a_replica_reads_the_revocations_after_a_given_number(database: Database) {
    let fixture = Fixture::new(database).await;
    let other = Store::open(&fixture.url, Clock::system()).await.unwrap();
    let device = fixture.device("edge-1").await;
    let epoch = fixture.session(&device, 0, &[]).await.epoch;
    let before = other.revocation_number().await.unwrap();
    assert!(other.revoked_after(before).await.unwrap().is_empty());
    replace(&fixture, &device, b"new disk").await;
    let between = other.revocation_number().await.unwrap();
    assert_eq!(between, before + 1);
    let new = NewOperatorToken {
        name: "ada".into(),
        role: Role::Viewer,
        hash: Digest::of(b"a"),
        ttl: HOUR,
    };
    let made = fixture
        .operators
        .create_operator_token(&caller("CreateOperatorToken"), new)
        .await
        .unwrap();
    for _ in 0..2 {
        // Announcing it twice has the effect of once.
        fixture
            .operators
            .revoke_operator_token(&caller("RevokeOperatorToken"), made.id)
            .await
            .unwrap();
    }
    let keys = Revocation::Keys {
        device: device.id,
        epoch,
        cause: Cause::Replaced,
    };
    assert_eq!(other.revocation_number().await.unwrap(), between + 1);
    assert_eq!(
        other.revoked_after(before).await.unwrap(),
        [keys, Revocation::Token(made.id)]
    );
    assert_eq!(
        other.revoked_after(between).await.unwrap(),
        [Revocation::Token(made.id)]
    );
    other.close().await.unwrap();
}

async fn a_revocation_is_announced_after_its_commit_and_never_before(database: Database) {
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    fixture
        .store
        .revocations()
        .listen(move |revoked| tell.send(revoked).unwrap());
    let missing = fixture
        .operators
        .delete_device(&caller("DeleteDevice"), "edge-9", &[])
        .await;
    assert!(
        missing.is_err() && told.try_recv().is_err(),
        "nothing was revoked"
    );
    fixture
        .operators
        .delete_device(&caller("DeleteDevice"), "edge-1", &[])
        .await
        .unwrap();
    let heard = told.try_recv().unwrap();
    assert_eq!(
        heard,
        Revocation::Keys {
            device: device.id,
            epoch: 0,
            cause: Cause::Deleted
        }
    );
    assert!(told.try_recv().is_err(), "once");
}
