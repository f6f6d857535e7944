//! The newest heartbeat of a device, and its samples.

use kernex_integration_tests::{Database, both_databases};
use kernex_proto::{ids::DeviceId, v1};
use kernex_server::store::{CachedHeartbeat, HeartbeatRow, Page};
use uuid::Uuid;

use super::fixture::{Fixture, MINUTE, repeated};

/// A heartbeat of a device that was not read before.
pub(super) fn beat(device: DeviceId, epoch: u64, cpu_percent: f64) -> CachedHeartbeat {
    let vital_signs = v1::VitalSigns {
        cpu_percent,
        memory_used_mb: u64::MAX,
        ..Default::default()
    };
    let row = HeartbeatRow {
        device,
        epoch,
        vital_signs,
        releases: Some(Vec::new()),
        leftovers: None,
    };
    row.into()
}

both_databases![
    a_heartbeat_reads_no_cached_rows_and_a_stale_cache_does_no_harm,
    heartbeats_keep_the_latest_and_a_sample_a_minute,
];

async fn a_heartbeat_reads_no_cached_rows_and_a_stale_cache_does_no_harm(database: Database) {
    let fixture = Fixture::new(database).await;
    let (one, gone) = (
        fixture.device("edge-1").await,
        fixture.device("edge-2").await,
    );
    let old = fixture.session(&one, 0, &[]).await.epoch;
    let theirs = fixture.session(&gone, 0, &[]).await.epoch;
    let first = [beat(one.id, old, 1.0), beat(gone.id, theirs, 1.0)];
    let read = fixture
        .store
        .record_heartbeats(&first)
        .await
        .unwrap()
        .sampled;
    assert_eq!(read.len(), 2);
    let known = |mut beat: CachedHeartbeat| {
        beat.sampled_at = read.get(&beat.row.device).copied();
        beat
    };
    let written = async |rows: &[CachedHeartbeat]| {
        fixture.store.record_heartbeats(rows).await.unwrap().sampled
    };
    let percent = async || {
        fixture
            .view
            .get_device("edge-1")
            .await
            .unwrap()
            .vital_signs
            .unwrap()
            .cpu_percent
    };
    assert!(
        written(&[known(beat(one.id, old, 2.0))]).await.is_empty(),
        "nothing was read"
    );
    assert_eq!(percent().await, 2.0);
    // A newer session of the device opened elsewhere, and the other one was deleted.
    let new = fixture.session(&one, old, &[]).await.epoch;
    written(&[beat(one.id, new, 3.0)]).await;
    fixture
        .operators
        .delete_device(&repeated("DeleteDevice", Uuid::now_v7()), "edge-2", &[])
        .await
        .unwrap();
    written(&[
        known(beat(one.id, old, 4.0)),
        known(beat(gone.id, theirs, 4.0)),
    ])
    .await;
    assert_eq!(percent().await, 3.0, "of the newer session");
    fixture.clock.advance(MINUTE * 2);
    assert_eq!(
        written(&[known(beat(one.id, new, 5.0))]).await.len(),
        1,
        "its history was due"
    );
    assert_eq!(percent().await, 5.0);
}

async fn heartbeats_keep_the_latest_and_a_sample_a_minute(database: Database) {
    let fixture = Fixture::new(database).await;
    let (one, two) = (
        fixture.device("edge-1").await,
        fixture.device("edge-2").await,
    );
    let epoch = fixture.session(&one, 0, &[]).await.epoch;
    let old = fixture.session(&two, 0, &[]).await.epoch;
    fixture.session(&two, old, &[]).await;
    let gone = DeviceId::generate();
    let rows = vec![
        beat(one.id, epoch, 1.0),
        beat(one.id, epoch, 2.0),
        beat(two.id, old, 9.0),
        beat(gone, 1, 1.0),
    ];
    fixture.store.record_heartbeats(&rows).await.unwrap();
    let seen = fixture.view.get_device("edge-1").await.unwrap();
    assert_eq!(seen.vital_signs.unwrap().cpu_percent, 2.0);
    assert!(
        fixture
            .view
            .get_device("edge-2")
            .await
            .unwrap()
            .vital_signs
            .is_none(),
        "an older session's"
    );
    fixture
        .store
        .record_heartbeats(&[beat(one.id, epoch, f64::NAN)])
        .await
        .unwrap();
    let samples = async || {
        fixture
            .view
            .list_metrics("edge-1", Page::first(1))
            .await
            .unwrap()
    };
    assert_eq!(samples().await.next, None);
    fixture.clock.advance(MINUTE * 2);
    fixture
        .store
        .record_heartbeats(&[beat(one.id, epoch, 4.0)])
        .await
        .unwrap();
    let newest = samples().await;
    assert_eq!(newest.items[0].vital_signs.cpu_percent, 4.0);
    let rest = fixture
        .view
        .list_metrics(
            "edge-1",
            Page {
                size: 1,
                token: newest.next,
            },
        )
        .await
        .unwrap();
    assert_eq!(
        (rest.items[0].vital_signs.cpu_percent, rest.next),
        (2.0, None)
    );
    let later = fixture.view.get_device("edge-1").await.unwrap();
    assert!(later.last_seen > seen.last_seen);
}
