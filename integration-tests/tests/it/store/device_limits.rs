//! Limits on what the database keeps of one device.

use kernex_integration_tests::{Database, both_databases};
use kernex_proto::{
    ids::{AttemptId, Digest, TargetId},
    v1::{self, Disposition},
};
use kernex_server::{
    domain::device::DiskFault,
    store::{IncomingReport, ReportEvent},
};

use super::fixture::{Device, Fixture, LATEST, succeeded};

fn made_up(device: &Device, name: &str, version: &str, output: &str) -> IncomingReport {
    IncomingReport {
        device: device.id,
        epoch: LATEST,
        attempt: AttemptId {
            target: TargetId::generate(),
            number: 1,
        },
        event: ReportEvent::Outcome(v1::Outcome {
            state: v1::AttemptState::Succeeded.into(),
            output_tail: output.into(),
            active: Some(Box::new(v1::ActiveRelease {
                name: name.into(),
                version: version.into(),
                digest: Digest::of(version.as_bytes()).to_string(),
                ..Default::default()
            })),
            ..Default::default()
        }),
        place: None,
    }
}

both_databases![
    the_newest_reports_of_unknown_attempts_are_kept,
    a_device_cannot_make_up_more_than_256_bundle_names,
    a_disk_that_fails_again_and_again_makes_sixty_events,
];

async fn the_newest_reports_of_unknown_attempts_are_kept(database: Database) {
    let fixture = Fixture::new(database).await;
    let (rogue, honest) = (
        fixture.device("edge-1").await,
        fixture.device("edge-2").await,
    );
    let one = [made_up(&honest, "app", "1", "")];
    fixture.store.apply_reports(&one).await.unwrap();
    let long = "x".repeat(300_000);
    for batch in 0..20 {
        let reports: Vec<_> = (0..50)
            .map(|n| {
                // A bundle that is named once, among the first.
                let name = if (batch, n) == (0, 0) { "first" } else { "app" };
                made_up(
                    &rogue,
                    name,
                    &format!("{batch}.{n}"),
                    if n == 49 { &long } else { "" },
                )
            })
            .collect();
        let answers = fixture.store.apply_reports(&reports).await.unwrap();
        assert!(
            answers
                .iter()
                .all(|answer| *answer == Some(Disposition::Unknown))
        );
    }
    let kept = fixture.unknown_reports(&rogue).await;
    assert!((200..=251).contains(&kept.len()), "{}", kept.len());
    assert_eq!(
        kept.iter()
            .filter(|(name, _)| name.as_deref() == Some("first"))
            .count(),
        1
    );
    assert!(kept.iter().all(|(_, bytes)| *bytes <= 70_000), "{kept:?}");
    assert_eq!(fixture.unknown_reports(&honest).await.len(), 1);
    let dropped = fixture
        .store
        .figures()
        .device_limits
        .with_label("unknown_reports")
        .get();
    assert_eq!(dropped, 1000 - kept.len() as u64);
}

async fn a_device_cannot_make_up_more_than_256_bundle_names(database: Database) {
    let fixture = Fixture::new(database).await;
    let rogue = fixture.device("edge-1").await;
    for batch in 0..10 {
        let reports: Vec<_> = (0..50)
            .map(|n| made_up(&rogue, &format!("made-up-{batch}-{n}"), "1", ""))
            .collect();
        fixture.store.apply_reports(&reports).await.unwrap();
    }
    let known = async || {
        fixture
            .view
            .get_device("edge-1")
            .await
            .unwrap()
            .releases
            .len()
    };
    assert_eq!(known().await, 256);
    // An outcome of a known bundle is still recorded.
    let news = [made_up(&rogue, "made-up-0-0", "2", "")];
    fixture.store.apply_reports(&news).await.unwrap();
    let device = fixture.view.get_device("edge-1").await.unwrap();
    let release = device
        .releases
        .iter()
        .find(|release| release.name == "made-up-0-0");
    assert_eq!(release.unwrap().version, "2");
    fixture.bundle("app", "1").await;
    let deployment = fixture.deploy("app:1", &[&rogue]).await;
    let (attempt, _) = fixture.target(&deployment, &rogue).await;
    fixture.report(&rogue, attempt, succeeded("1", b"1")).await;
    assert_eq!(known().await, 257);
}

async fn a_disk_that_fails_again_and_again_makes_sixty_events(database: Database) {
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    let epoch = fixture.session(&device, 0, &[]).await.epoch;
    for n in 0..101 {
        let fault = (n % 2 == 0).then_some(DiskFault::NoSpace);
        fixture
            .store
            .record_disk_fault(device.id, epoch, fault)
            .await
            .unwrap();
    }
    let kinds = fixture.kinds_of_events().await;
    assert_eq!(
        kinds
            .iter()
            .filter(|kind| kind.starts_with("device.disk_"))
            .count(),
        60
    );
    let shown = fixture.view.get_device("edge-1").await.unwrap();
    assert_eq!(shown.disk_fault, Some(DiskFault::NoSpace));
}
