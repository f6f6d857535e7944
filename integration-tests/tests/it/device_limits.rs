//! Limits of a device: one that sends too much is slowed down, and nobody else waits for it.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use kernex_integration_tests::{
    Database, RawIdentity, RawSession, TestServer, both_databases, http::HttpClient,
    raw_agent::succeeded, wait::seen, wait_for,
};
use kernex_proto::{
    ids::{AttemptId, Digest, TargetId},
    v1::{
        ActiveRelease, AttemptState, Deploy, Disposition, Heartbeat, HeldAttempt, Progress, Report,
        Step, VitalSigns, device_session_request as up, device_session_response as down, report,
    },
};
use tonic::Code;

/// A server with a device of the test's own, and where its figures are.
async fn monitored(
    database: kernex_integration_tests::Database,
) -> (TestServer, HttpClient, RawIdentity, RawSession) {
    let (server, http) = TestServer::monitored(database).await;
    let mut device = server.raw_device("rogue").await;
    let session = device.connect(&server).await;
    (server, http, device, session)
}

/// How often a device exceeded this limit.
async fn beyond(http: &HttpClient, limit: &str) -> f64 {
    let series = format!("kernex_device_limits_total{{limit=\"{limit}\"}}");
    let value = http.metric(&series).await;
    value.unwrap_or_else(|| panic!("{series} is not scraped"))
}

/// A report of an attempt that does not exist.
fn made_up(seq: u64, event: report::Event) -> up::Message {
    let attempt = AttemptId {
        target: TargetId::generate(),
        number: 1,
    };
    up::Message::Report(Report {
        attempt: Some(attempt.into()),
        seq,
        event: Some(event),
        ..Report::default()
    })
}

/// An outcome that says a version of a bundle runs.
fn runs(name: &str, version: &str) -> report::Event {
    report::Event::Outcome(succeeded(&Deploy {
        name: name.into(),
        version: version.into(),
        digest: Digest::of(version.as_bytes()).to_string(),
        ..Deploy::default()
    }))
}

both_databases![
    a_flood_of_outcomes_is_slowed_down_and_none_is_lost,
    a_flood_of_progress_is_dropped_and_the_outcome_after_it_is_not,
    endless_drift_makes_sixty_events_and_settles_when_it_ends,
    a_device_that_holds_too_many_attempts_is_told_so_and_counted,
];

async fn a_flood_of_outcomes_is_slowed_down_and_none_is_lost(database: Database) {
    let (server, http, _device, mut session) = monitored(database).await;
    let operator = server.operator();
    let _honest = server.agent("honest").await;
    let bundle = operator.push_script("app", "1.0", "true").await;
    let began = Instant::now();
    let saying = session.sender();
    let count = 700;
    let flood = async move {
        for seq in 1..=count {
            // The first report names a bundle that no later one names.
            let event = if seq == 1 {
                runs("first", "7")
            } else {
                runs("app", &seq.to_string())
            };
            assert!(
                saying.say(made_up(seq, event)).await,
                "the session ended at {seq}"
            );
        }
    };
    let mut waiting: BTreeSet<u64> = (1..=count).collect();
    let acknowledged = async {
        while !waiting.is_empty() {
            let ack = session
                .next_where(|message| match message {
                    down::Message::Ack(ack) => Some(ack),
                    _ => None,
                })
                .await;
            assert_eq!(ack.disposition(), Disposition::Unknown);
            assert!(waiting.remove(&ack.seq), "{} twice", ack.seq);
        }
    };
    tokio::join!(
        flood,
        acknowledged,
        operator.deploy_and_finish(&bundle, "honest")
    );
    let least = Duration::from_secs((count - 200) / 50 - 1);
    assert!(
        began.elapsed() > least,
        "all were heard after {:?}",
        began.elapsed()
    );
    assert!(beyond(&http, "messages").await > 100.0);
    assert!(beyond(&http, "unknown_reports").await >= (count - 300) as f64);
    // The server knows what runs of each bundle, however old the report is.
    let device = operator.device("rogue").await;
    let shown: Vec<_> = device
        .releases
        .iter()
        .map(|release| (release.name.as_str(), release.version.as_str()))
        .collect();
    assert_eq!(shown, [("app", "700"), ("first", "7")]);
}

async fn a_flood_of_progress_is_dropped_and_the_outcome_after_it_is_not(database: Database) {
    let (server, http, _device, mut session) = monitored(database).await;
    let operator = server.operator();
    let bundle = operator.push_script("app", "1.0", "true").await;
    let deployment = operator.deploy(&bundle, &["rogue"]).await;
    let (command, deploy) = session.deploy_command().await;
    assert_eq!(session.accept(&command, 1).await, Disposition::Applied);
    for done in 0..400 {
        session
            .send(up::Message::Report(Report {
                attempt: command.attempt.clone(),
                event: Some(report::Event::Progress(Progress {
                    step: Step::Download.into(),
                    bytes_done: done,
                    bytes_total: 1000,
                    stopped: false,
                })),
                ..Report::default()
            }))
            .await;
    }
    assert_eq!(
        session.outcome(&command, 2, succeeded(&deploy)).await,
        Disposition::Applied
    );
    assert_eq!(
        operator.target(&deployment).await.state(),
        AttemptState::Succeeded
    );
    let dropped = beyond(&http, "progress").await;
    assert!((100.0..400.0).contains(&dropped), "{dropped}");
}

async fn endless_drift_makes_sixty_events_and_settles_when_it_ends(database: Database) {
    let (server, http, _device, session) = monitored(database).await;
    let operator = server.operator();
    let beat = async |seq, versions: &[(String, String)]| {
        let releases = versions.iter().map(|(name, version)| ActiveRelease {
            name: name.clone(),
            version: version.clone(),
            digest: Digest::of(version.as_bytes()).to_string(),
            ..ActiveRelease::default()
        });
        session
            .send(up::Message::Heartbeat(Heartbeat {
                seq,
                vital_signs: Some(VitalSigns::default()),
                releases: releases.collect(),
                ..Heartbeat::default()
            }))
            .await;
    };
    let made_up = |round: u64| -> Vec<_> {
        (0..256)
            .map(|n| (format!("made-up-{n:03}"), round.to_string()))
            .collect()
    };
    for round in 1..=5 {
        beat(round, &made_up(round)).await;
        wait_for("the heartbeat to be judged", async || {
            let held = beyond(&http, "events").await;
            seen(held >= round as f64, held)
        })
        .await;
    }
    assert_eq!(operator.device("rogue").await.drifts.len(), 60);
    let mut far: Vec<_> = made_up(6);
    far.push(("one-more".into(), "1".into()));
    beat(6, &far).await;
    beat(7, &[("../../etc".into(), "1".into())]).await;
    wait_for("both to be passed over", async || {
        let passed = beyond(&http, "releases").await;
        seen(passed >= 2.0, passed)
    })
    .await;
    beat(8, &[]).await;
    operator
        .device_where("rogue", "to settle", |device| device.drifts.is_empty())
        .await;
    let kinds = operator.event_kinds("device.settled").await;
    assert_eq!(
        kinds
            .iter()
            .filter(|kind| *kind == "device.drifted")
            .count(),
        60
    );
}

async fn a_device_that_holds_too_many_attempts_is_told_so_and_counted(database: Database) {
    let (server, http) = TestServer::monitored(database).await;
    let mut device = server.raw_device("rogue").await;
    let held = |many: usize| -> Vec<HeldAttempt> {
        let one = || HeldAttempt {
            attempt: Some(
                AttemptId {
                    target: TargetId::generate(),
                    number: 1,
                }
                .into(),
            ),
            state: AttemptState::Succeeded.into(),
        };
        std::iter::repeat_with(one).take(many).collect()
    };
    let refused = device.open(&server, held(4097)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(
        refused.message().contains("4097 attempts") && refused.message().contains("4096"),
        "{refused}"
    );
    assert_eq!(beyond(&http, "held_attempts").await, 1.0);
    let mut session = device.open(&server, held(4096)).await.expect("it opens");
    session.heartbeat(1).await;
    assert_eq!(beyond(&http, "held_attempts").await, 1.0);
}
