//! Events in commit order, and how long rows are kept.

use kernex_integration_tests::{Database, both_databases};
use kernex_proto::v1;
use kernex_server::{
    clock::Clock,
    store::{HeartbeatRow, Page, Retention, Store},
};
use tokio::task::JoinSet;

use super::fixture::{Fixture, HOUR, caller, enrolment, token};

both_databases![
    concurrent_writers_leave_no_gap_between_cursors,
    old_events_and_samples_are_pruned,
];

async fn concurrent_writers_leave_no_gap_between_cursors(database: Database) {
    let fixture = Fixture::new(database).await;
    let id = fixture.token(token(40)).await;
    // A second server on the same database, as far as the store can tell.
    let second = Store::open(&fixture.url, Clock::system()).await.unwrap();
    let mut changes = fixture.store.changes();
    let mut tasks = JoinSet::new();
    for n in 0..40 {
        let store = if n % 2 == 0 {
            fixture.store.clone()
        } else {
            second.clone()
        };
        tasks.spawn(async move {
            let name = format!("edge-{n}");
            let new = enrolment(id, &name, name.as_bytes());
            store.enroll(new).await.unwrap();
        });
    }
    let mut seen = Vec::new();
    while seen.len() < 40 {
        let after = seen.last().copied().unwrap_or(0);
        seen.extend(
            fixture
                .view
                .events_after(after, 7)
                .await
                .unwrap()
                .iter()
                .map(|event| event.cursor),
        );
        tokio::task::yield_now().await;
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(
        seen,
        (1..=40).collect::<Vec<u64>>(),
        "a reader that follows misses none"
    );
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    let left = fixture
        .view
        .list_enrollment_tokens(Page::first(1))
        .await
        .unwrap();
    assert_eq!(left.items[0].uses_left, 0);
}

async fn old_events_and_samples_are_pruned(database: Database) {
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    let epoch = fixture.session(&device, 0, &[]).await.epoch;
    let beat = HeartbeatRow {
        device: device.id,
        epoch,
        vital_signs: v1::VitalSigns::default(),
        releases: Some(Vec::new()),
        leftovers: None,
    };
    fixture
        .store
        .record_heartbeats(&[beat.into()])
        .await
        .unwrap();
    fixture.store.prune(Retention::default()).await.unwrap();
    assert!(!fixture.kinds_of_events().await.is_empty());
    fixture.clock.advance(HOUR * 24 * 400);
    fixture.store.prune(Retention::default()).await.unwrap();
    assert!(fixture.kinds_of_events().await.is_empty());
    assert!(
        fixture
            .view
            .list_metrics("edge-1", Page::first(1))
            .await
            .unwrap()
            .items
            .is_empty()
    );
    fixture
        .operators
        .delete_device(&caller("DeleteDevice"), "edge-1", &[])
        .await
        .unwrap();
    let events = fixture.view.events_after(0, 10).await.unwrap();
    assert!(events[0].cursor > 1, "cursors go on");
}
