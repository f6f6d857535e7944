//! Drift: heartbeats are compared with outcomes, in whatever order they arrive.

use kernex_integration_tests::{Database, both_databases};
use kernex_proto::{ids::Digest, v1};
use kernex_server::store::{CachedHeartbeat, HeartbeatRow, ReportEvent, StoreError};

use super::fixture::{Device, Fixture, MINUTE, caller, succeeded};

fn beat(device: &Device, epoch: u64, runs: Option<&[(&str, &str)]>) -> CachedHeartbeat {
    let releases = |runs: &[(&str, &str)]| {
        runs.iter()
            .map(|(name, version)| v1::ActiveRelease {
                name: (*name).into(),
                version: (*version).into(),
                digest: Digest::of(version.as_bytes()).to_string(),
                ..Default::default()
            })
            .collect()
    };
    let row = HeartbeatRow {
        device: device.id,
        epoch,
        vital_signs: v1::VitalSigns::default(),
        releases: runs.map(releases),
        leftovers: None,
    };
    row.into()
}

async fn drifts(fixture: &Fixture) -> Vec<v1::Drift> {
    fixture.view.get_device("edge-1").await.unwrap().drifts
}

async fn told(fixture: &Fixture) -> Vec<String> {
    let kinds = fixture.kinds_of_events().await.into_iter();
    kinds
        .filter(|kind| kind == "device.drifted" || kind == "device.settled")
        .collect()
}

both_databases![
    a_heartbeat_that_arrives_before_its_outcome_is_no_drift,
    drift_is_dated_by_its_first_heartbeat_and_makes_one_event,
    an_outcome_settles_drift_and_a_waiting_deployment_does_not,
    a_bundle_that_a_device_runs_is_kept_whatever_its_outcome_said,
];

async fn a_heartbeat_that_arrives_before_its_outcome_is_no_drift(database: Database) {
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    fixture.bundle("app", "1").await;
    let epoch = fixture.session(&device, 0, &[]).await.epoch;
    let deployment = fixture.deploy("app:1", &[&device]).await;
    let (attempt, _) = fixture.target(&deployment, &device).await;
    // The push is not written yet.
    let early = || vec![beat(&device, epoch, Some(&[("app", "1")]))];
    fixture.store.record_heartbeats(&early()).await.unwrap();
    fixture
        .report(&device, attempt, ReportEvent::Accepted)
        .await;
    fixture.store.record_heartbeats(&early()).await.unwrap();
    assert!(drifts(&fixture).await.is_empty());
    fixture.report(&device, attempt, succeeded("1", b"1")).await;
    // Sent before the outcome, so the recorder ignores its releases.
    fixture
        .store
        .record_heartbeats(&[beat(&device, epoch, None)])
        .await
        .unwrap();
    fixture.store.record_heartbeats(&early()).await.unwrap();
    assert!(drifts(&fixture).await.is_empty());
    assert!(told(&fixture).await.is_empty());
}

async fn drift_is_dated_by_its_first_heartbeat_and_makes_one_event(database: Database) {
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    fixture.bundle("app", "1").await;
    let epoch = fixture.session(&device, 0, &[]).await.epoch;
    let deployment = fixture.deploy("app:1", &[&device]).await;
    let (attempt, _) = fixture.target(&deployment, &device).await;
    fixture.report(&device, attempt, succeeded("1", b"1")).await;
    let other: &[_] = &[("app", "2"), ("extra", "9")];
    fixture
        .store
        .record_heartbeats(&[beat(&device, epoch, Some(other))])
        .await
        .unwrap();
    let first = drifts(&fixture).await;
    assert_eq!(
        first
            .iter()
            .map(|drift| (
                drift.name.as_str(),
                drift.expected_version.as_str(),
                drift.actual_version.as_str()
            ))
            .collect::<Vec<_>>(),
        [("app", "1", "2"), ("extra", "", "9")]
    );
    fixture.clock.advance(MINUTE);
    fixture
        .store
        .record_heartbeats(&[beat(&device, epoch, Some(other))])
        .await
        .unwrap();
    assert_eq!(drifts(&fixture).await, first);
    let newer = fixture.session(&device, epoch, &[]).await.epoch;
    fixture
        .store
        .record_heartbeats(&[beat(&device, epoch, Some(&[("app", "1")]))])
        .await
        .unwrap();
    assert_eq!(
        drifts(&fixture).await,
        first,
        "an older session has nothing to say"
    );
    fixture
        .store
        .record_heartbeats(&[beat(&device, newer, Some(&[("app", "2")]))])
        .await
        .unwrap();
    assert_eq!(drifts(&fixture).await, first[..1]);
    fixture
        .store
        .record_heartbeats(&[beat(&device, newer, Some(&[("app", "1")]))])
        .await
        .unwrap();
    assert!(drifts(&fixture).await.is_empty());
    assert_eq!(
        told(&fixture).await,
        ["device.drifted", "device.drifted", "device.settled"]
    );
}

async fn an_outcome_settles_drift_and_a_waiting_deployment_does_not(database: Database) {
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    fixture.bundle("app", "1").await;
    fixture.bundle("app", "2").await;
    let epoch = fixture.session(&device, 0, &[]).await.epoch;
    let deployment = fixture.deploy("app:1", &[&device]).await;
    let (attempt, _) = fixture.target(&deployment, &device).await;
    fixture.report(&device, attempt, succeeded("1", b"1")).await;
    fixture
        .store
        .record_heartbeats(&[beat(&device, epoch, Some(&[]))])
        .await
        .unwrap();
    assert_eq!(drifts(&fixture).await.len(), 1);
    let next = fixture.deploy("app:2", &[&device]).await;
    fixture
        .store
        .record_heartbeats(&[beat(&device, epoch, Some(&[("app", "2")]))])
        .await
        .unwrap();
    assert_eq!(
        drifts(&fixture).await.len(),
        1,
        "judged by its outcome only"
    );
    let (attempt, _) = fixture.target(&next, &device).await;
    fixture.report(&device, attempt, succeeded("2", b"2")).await;
    assert!(drifts(&fixture).await.is_empty());
    assert_eq!(told(&fixture).await, ["device.drifted", "device.settled"]);
}

async fn a_bundle_that_a_device_runs_is_kept_whatever_its_outcome_said(database: Database) {
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    for version in ["1", "7"] {
        fixture.bundle("app", version).await;
    }
    let epoch = fixture.session(&device, 0, &[]).await.epoch;
    let deployment = fixture.deploy("app:1", &[&device]).await;
    let (attempt, _) = fixture.target(&deployment, &device).await;
    fixture.report(&device, attempt, succeeded("1", b"1")).await;
    let runs = [beat(&device, epoch, Some(&[("app", "7")]))];
    fixture.store.record_heartbeats(&runs).await.unwrap();
    let delete = async || {
        let caller = caller("DeleteBundle");
        fixture.operators.delete_bundle(&caller, "app:7").await
    };
    let refused = delete().await.unwrap_err();
    assert!(
        matches!(&refused, StoreError::InUse { why, .. } if why.contains("was to run something else")),
        "{refused:?}"
    );
    let back = [beat(&device, epoch, Some(&[("app", "1")]))];
    fixture.store.record_heartbeats(&back).await.unwrap();
    delete().await.unwrap();
}
