//! The resume mark: up to which outcome a journal is recorded, and what a restored database learns
//! from a device that is ahead of it.

use kernex_integration_tests::{Database, both_databases};
use kernex_proto::{
    ids::{AttemptId, Digest, JournalId, TargetId},
    v1::{self, Disposition},
};
use kernex_server::{
    domain::attempt::State,
    store::{IncomingReport, OpenSession, OpenedSession, ReportEvent, ReportPlace},
};

use super::fixture::{Device, Fixture, caller, failed, succeeded};

/// An outcome with its place in the journal: its number and that of the one before it.
fn outcome(
    device: &Device,
    attempt: AttemptId,
    (after, seq): (u64, u64),
    event: ReportEvent,
) -> IncomingReport {
    let place = ReportPlace {
        journal: device.journal,
        after,
        seq,
    };
    IncomingReport {
        device: device.id,
        epoch: i64::MAX as u64,
        attempt,
        event,
        place: Some(place),
    }
}

fn nowhere() -> AttemptId {
    AttemptId {
        target: TargetId::generate(),
        number: 1,
    }
}

/// Opens a session of a device that knows up to which outcome it was acknowledged.
async fn opened(
    fixture: &Fixture,
    device: &Device,
    last_epoch: u64,
    acknowledged: Option<u64>,
) -> OpenedSession {
    let opening = OpenSession {
        acknowledged_seq: acknowledged,
        ..fixture.opening(device, last_epoch, &[])
    };
    let opened = fixture.open(opening).await.unwrap();
    fixture.confirm(device.id, opened.epoch).await.unwrap();
    opened
}

both_databases![
    the_resume_mark_never_passes_a_missing_outcome,
    the_resume_mark_passes_outcomes_of_every_disposition,
    a_report_without_its_place_in_the_journal_raises_no_resume_mark,
    a_journal_without_a_mark_begins_at_the_number_of_its_agent_and_an_upgrade_resends_nothing,
    copies_get_no_resume_mark_and_the_kept_one_sends_everything_again,
    after_a_restore_an_unlisted_attempt_is_not_taken_for_never_received,
    an_outcome_of_an_unknown_attempt_updates_what_the_device_runs,
    a_kept_copy_that_sends_everything_again_ends_at_its_newest_outcome,
];

async fn the_resume_mark_never_passes_a_missing_outcome(database: Database) {
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    let mut epoch = opened(&fixture, &device, 0, Some(0)).await.epoch;
    let mut mark = async || {
        let opened = opened(&fixture, &device, epoch, Some(0)).await;
        epoch = opened.epoch;
        opened.recorded_seq
    };
    let told = async |places: &[(u64, u64)]| {
        let reports: Vec<_> = places
            .iter()
            .map(|place| {
                outcome(
                    &device,
                    nowhere(),
                    *place,
                    failed(v1::FailureReason::Internal),
                )
            })
            .collect();
        let answers = fixture.store.apply_reports(&reports).await.unwrap();
        assert!(
            answers
                .iter()
                .all(|answer| *answer == Some(Disposition::Unknown)),
            "{answers:?}"
        );
    };
    assert_eq!(
        mark().await,
        Some(0),
        "nothing of a journal that is new here was ever recorded here"
    );
    told(&[(0, 2)]).await;
    assert_eq!(mark().await, Some(2));
    told(&[(5, 7)]).await;
    assert_eq!(mark().await, Some(2), "the one before it is missing");
    told(&[(2, 5), (5, 7)]).await;
    assert_eq!(mark().await, Some(7));
    told(&[(0, 2), (9, 11), (7, 9), (2, 5)]).await;
    assert_eq!(mark().await, Some(11), "in whatever order they come");
    told(&[(0, 2), (13, 15)]).await;
    assert_eq!(
        mark().await,
        Some(11),
        "what comes again takes nothing back"
    );
    told(&[(0, 2), (11, 13)]).await;
    assert_eq!(
        mark().await,
        Some(13),
        "one that is behind a gap counts when it comes again"
    );
    told(&[(5, 7), (13, 15)]).await;
    assert_eq!(mark().await, Some(15));
}

async fn the_resume_mark_passes_outcomes_of_every_disposition(database: Database) {
    let fixture = Fixture::new(database).await;
    let (device, other) = (
        fixture.device("edge-1").await,
        fixture.device("edge-2").await,
    );
    fixture.bundle("app", "1").await;
    let epoch = opened(&fixture, &device, 0, Some(0)).await.epoch;
    let first = fixture.deploy("app:1", &[&device]).await;
    let (attempt, _) = fixture.target(&first, &device).await;
    let foreign = fixture.deploy("app:1", &[&other]).await;
    let (foreign, _) = fixture.target(&foreign, &other).await;
    let senseless = ReportEvent::Outcome(v1::Outcome::default());
    let reports = [
        outcome(&device, attempt, (0, 2), succeeded("1", b"1")),
        outcome(&device, attempt, (0, 2), succeeded("1", b"1")),
        outcome(&device, foreign, (2, 3), succeeded("1", b"1")),
        outcome(&device, attempt, (3, 4), senseless),
        outcome(&device, nowhere(), (4, 5), succeeded("1", b"1")),
    ];
    let answers = fixture.store.apply_reports(&reports).await.unwrap();
    assert_eq!(
        answers,
        [
            Disposition::Applied,
            Disposition::Duplicate,
            Disposition::Refused,
            Disposition::Refused,
            Disposition::Unknown
        ]
        .map(Some)
    );
    let after = opened(&fixture, &device, epoch, Some(5)).await;
    assert_eq!(after.recorded_seq, Some(5));
    // Reports of other journals do not raise the mark of this one.
    let stranger = Device {
        journal: JournalId::generate(),
        ..device.clone()
    };
    let report = outcome(&stranger, nowhere(), (5, 9), succeeded("1", b"1"));
    fixture.store.apply_reports(&[report]).await.unwrap();
    assert_eq!(
        opened(&fixture, &device, after.epoch, Some(5))
            .await
            .recorded_seq,
        Some(5)
    );
}

async fn a_report_without_its_place_in_the_journal_raises_no_resume_mark(database: Database) {
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    let epoch = opened(&fixture, &device, 0, None).await.epoch;
    let report = IncomingReport {
        place: None,
        ..outcome(&device, nowhere(), (0, 0), succeeded("1", b"1"))
    };
    fixture.store.apply_reports(&[report]).await.unwrap();
    assert_eq!(
        opened(&fixture, &device, epoch, None).await.recorded_seq,
        Some(0)
    );
}

async fn a_journal_without_a_mark_begins_at_the_number_of_its_agent_and_an_upgrade_resends_nothing(
    database: Database,
) {
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    let first = opened(&fixture, &device, 0, None).await;
    // So the upgrade that brought marks left the journals that were there.
    fixture.forget_marks().await;
    let unsaid = opened(&fixture, &device, first.epoch, None).await;
    assert_eq!(unsaid.recorded_seq, None, "nobody knows");
    let begun = opened(&fixture, &device, unsaid.epoch, Some(41)).await;
    assert_eq!(
        begun.recorded_seq,
        Some(41),
        "the agent has nothing above that to send again"
    );
    // From then on the rows decide, whatever the agent says.
    let later = opened(&fixture, &device, begun.epoch, Some(50)).await;
    assert_eq!(later.recorded_seq, Some(41));
    let report = outcome(&device, nowhere(), (41, 44), succeeded("1", b"1"));
    fixture.store.apply_reports(&[report]).await.unwrap();
    let raised = opened(&fixture, &device, later.epoch, Some(44)).await;
    assert_eq!(raised.recorded_seq, Some(44), "it goes on from there");
}

async fn copies_get_no_resume_mark_and_the_kept_one_sends_everything_again(database: Database) {
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    let first = opened(&fixture, &device, 0, Some(0)).await;
    let report = outcome(&device, nowhere(), (0, 4), succeeded("1", b"1"));
    fixture.store.apply_reports(&[report]).await.unwrap();
    let second = opened(&fixture, &device, first.epoch, Some(4)).await;
    assert_eq!(second.recorded_seq, Some(4));
    let copy = opened(&fixture, &device, 0, Some(0)).await;
    assert_eq!((copy.conflicted, copy.recorded_seq), (true, None));
    fixture
        .operators
        .resolve_device(&caller("ResolveDevice"), "edge-1", false)
        .await
        .unwrap();
    let kept = opened(&fixture, &device, copy.epoch, Some(4)).await;
    assert_eq!((kept.conflicted, kept.recorded_seq), (false, Some(0)));
}

async fn after_a_restore_an_unlisted_attempt_is_not_taken_for_never_received(database: Database) {
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    fixture.bundle("app", "1").await;
    fixture.bundle("app", "2").await;
    let epoch = opened(&fixture, &device, 0, Some(0)).await.epoch;
    let first = fixture.deploy("app:1", &[&device]).await;
    let (attempt, _) = fixture.target(&first, &device).await;
    fixture.store.mark_sent(&[(attempt, epoch)]).await.unwrap();
    fixture.deploy("app:2", &[&device]).await;
    // These rows stand for a backup from before the outcome; the device has been acknowledged
    // since.
    let epoch = opened(&fixture, &device, epoch, Some(2)).await.epoch;
    assert_eq!(fixture.state(&first, &device).await, State::Sent);
    let told = outcome(&device, attempt, (0, 2), succeeded("1", b"1"));
    assert_eq!(
        fixture.store.apply_reports(&[told]).await.unwrap(),
        [Some(Disposition::Applied)]
    );
    assert_eq!(fixture.due(&device, epoch).await[0].0, "deploy app:2");
}

async fn an_outcome_of_an_unknown_attempt_updates_what_the_device_runs(database: Database) {
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    opened(&fixture, &device, 0, Some(0)).await;
    let runs = async || {
        let releases = fixture.view.get_device("edge-1").await.unwrap().releases;
        releases
            .into_iter()
            .map(|release| release.version)
            .collect::<Vec<_>>()
    };
    let told = async |place, version: &str| {
        let report = outcome(
            &device,
            nowhere(),
            place,
            succeeded(version, version.as_bytes()),
        );
        fixture.store.apply_reports(&[report]).await.unwrap();
    };
    told((0, 2), "1").await;
    told((2, 5), "2").await;
    assert_eq!(runs().await, ["2"]);
    told((0, 2), "1").await;
    assert_eq!(runs().await, ["2"], "what was told before is older");
    let nonsense = v1::ActiveRelease {
        name: "../app".into(),
        digest: Digest::of(b"x").to_string(),
        ..Default::default()
    };
    let ReportEvent::Outcome(good) = succeeded("3", b"3") else {
        panic!("it is an outcome")
    };
    let nonsense = ReportEvent::Outcome(v1::Outcome {
        active: Some(Box::new(nonsense)),
        ..good
    });
    fixture
        .store
        .apply_reports(&[outcome(&device, nowhere(), (5, 6), nonsense)])
        .await
        .unwrap();
    assert_eq!(runs().await, ["2"]);
}

async fn a_kept_copy_that_sends_everything_again_ends_at_its_newest_outcome(database: Database) {
    let fixture = Fixture::new(database).await;
    let device = fixture.device("edge-1").await;
    fixture.bundle("app", "2").await;
    let epoch = opened(&fixture, &device, 0, Some(0)).await.epoch;
    let known = fixture.deploy("app:2", &[&device]).await;
    let (known, _) = fixture.target(&known, &device).await;
    // A restored database does not know the first of the two.
    let journal = [
        outcome(&device, nowhere(), (0, 2), succeeded("1", b"1")),
        outcome(&device, known, (2, 5), succeeded("2", b"2")),
    ];
    let runs = async || {
        let device = fixture.view.get_device("edge-1").await.unwrap();
        let [release] = device.releases.as_slice() else {
            panic!("{:?}", device.releases)
        };
        release.version.clone()
    };
    fixture.store.apply_reports(&journal).await.unwrap();
    assert_eq!(runs().await, "2");
    let copy = opened(&fixture, &device, 0, Some(0)).await;
    assert!(copy.conflicted && copy.epoch > epoch);
    let resolve = caller("ResolveDevice");
    let resolved = fixture.operators.resolve_device(&resolve, "edge-1", false);
    resolved.await.unwrap();
    let kept = opened(&fixture, &device, copy.epoch, Some(5)).await;
    assert_eq!(kept.recorded_seq, Some(0));
    for resent in journal.each_ref() {
        let resent = std::slice::from_ref(resent);
        fixture.store.apply_reports(resent).await.unwrap();
    }
    assert_eq!(runs().await, "2");
    // Outcomes below the mark change nothing.
    for old in journal.each_ref() {
        let old = std::slice::from_ref(old);
        fixture.store.apply_reports(old).await.unwrap();
        assert_eq!(runs().await, "2");
    }
}
