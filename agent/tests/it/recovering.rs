//! Lost sessions, stopped and crashed agents, damaged journals.

use std::fs;

use kernex_proto::v1::{self, AttemptState, FailureReason, device_session_response as down};
use serde_json::json;
use tonic::Status;

use crate::{
    bench::{Bench, until},
    fake_server::Download,
    session::attempt,
};

#[tokio::test]
async fn an_unacknowledged_outcome_is_sent_in_each_session_until_it_is() {
    let (mut bench, mut session) = Bench::connected().await;
    let bundle = bench.serve(&json!({"version": "1"}));
    session.deploy(&attempt(), &bundle).await;
    let (seq, _) = session.outcome().await;
    assert_eq!(session.held(), []);
    session.end(Status::unavailable("gone")).await;

    let mut session = bench.server.session().await;
    assert_eq!(session.held(), [AttemptState::Succeeded]);
    let (again, outcome) = session.outcome().await;
    assert_eq!((again, outcome.state()), (seq, AttemptState::Succeeded));
    session.ack(seq).await;
    let drain = v1::Drain {
        reconnect_after_ms: 10,
    };
    session.send(Some(down::Message::Drain(drain))).await;

    let session = bench.server.session().await;
    assert_eq!(session.held(), []);
    assert_eq!(session.hello.last_epoch, session.epoch - 1);
}

#[tokio::test]
async fn a_repeated_command_is_answered_from_the_journal_also_after_a_restart() {
    let (mut bench, mut session) = Bench::connected().await;
    let script = format!("echo ran >> {}", bench.witness().display());
    let bundle = bench.serve(&json!({"version": "1", "deploy": {"script": script}}));
    let id = attempt();
    session.deploy(&id, &bundle).await;
    let (seq, _) = session.outcome().await;
    session.ack(seq).await;
    session.deploy(&id, &bundle).await;
    assert_eq!(session.outcome().await.0, seq);
    bench.stop().await;
    let mut session = bench.start().await;
    session.deploy(&id, &bundle).await;
    let (again, outcome) = session.outcome().await;
    assert_eq!((again, outcome.state()), (seq, AttemptState::Succeeded));
    assert_eq!(bench.witnessed(), "ran\n");
}

#[tokio::test]
async fn a_graceful_stop_kills_the_script_and_reports_interrupted() {
    let (mut bench, mut session) = Bench::connected().await;
    let bundle = bench.serve(&json!({"version": "1", "deploy": {"script": "sleep 1000"}}));
    session.deploy(&attempt(), &bundle).await;
    session.step(v1::Step::Script).await;
    let told = async {
        let (seq, outcome) = session.outcome().await;
        session.ack(seq).await;
        outcome
    };
    let ((), outcome) = tokio::join!(bench.stop(), told);
    assert_eq!(outcome.reason(), FailureReason::Interrupted, "{outcome:?}");
    let session = bench.start().await;
    assert_eq!(session.held(), []);
}

#[tokio::test]
async fn a_script_cut_off_by_a_crash_is_killed_and_never_run_again() {
    let (mut bench, mut session) = Bench::connected().await;
    let witness = bench.witness();
    let script = format!(
        "setsid sleep 1000 & echo $! >> {}; sleep 1000",
        witness.display()
    );
    let bundle = bench.serve(&json!({"version": "1", "deploy": {"script": script}}));
    session.deploy(&attempt(), &bundle).await;
    session.step(v1::Step::Script).await;
    bench.until_witnessed().await;
    bench.crash().await;
    let mut session = bench.start().await;
    let (_, outcome) = session.outcome().await;
    assert_eq!(outcome.reason(), FailureReason::Interrupted, "{outcome:?}");
    let witnessed = bench.witnessed();
    assert_eq!(witnessed.lines().count(), 1);
    let stat = fs::read_to_string(format!("/proc/{}/stat", witnessed.trim())).unwrap_or_default();
    assert!(stat.is_empty() || stat.contains(") Z "), "{stat}");
    assert!(bench.list("bundles/app/releases").is_empty());
}

#[tokio::test]
async fn a_crash_after_the_switch_switches_back() {
    let (mut bench, mut session) = Bench::connected().await;
    let good = bench.serve(&json!({"version": "good"}));
    session.deployed(&good).await;
    let bad = bench.serve(&json!({"version": "bad", "hooks": {"post": "sleep 1000"}}));
    session.deploy(&attempt(), &bad).await;
    session.step(v1::Step::PostHook).await;
    assert_eq!(bench.current().as_deref(), Some("bad"));
    bench.crash().await;
    let mut session = bench.start().await;
    let (_, outcome) = session.outcome().await;
    assert_eq!(outcome.reason(), FailureReason::Interrupted, "{outcome:?}");
    assert_eq!(outcome.active.unwrap().digest, good.digest.to_string());
    assert_eq!(bench.current().as_deref(), Some("good"));
}

#[tokio::test]
async fn an_attempt_that_had_not_begun_is_resumed_after_a_crash() {
    let (mut bench, mut session) = Bench::connected().await;
    let bundle = bench.serve_with(&json!({"version": "1"}), &[Download::Silent]);
    session.deploy(&attempt(), &bundle).await;
    session.step(v1::Step::Download).await;
    until("a download was asked for", || {
        !bench.server.offsets().is_empty()
    })
    .await;
    bench.crash().await;
    let mut session = bench.start().await;
    assert_eq!(session.held(), [AttemptState::Accepted]);
    let (_, outcome) = session.outcome().await;
    assert_eq!(outcome.state(), AttemptState::Succeeded, "{outcome:?}");
}

#[tokio::test]
async fn an_attempt_the_server_does_not_know_is_given_up() {
    let (bench, mut session) = Bench::connected().await;
    let bundle = bench.serve_with(&json!({"version": "1"}), &[Download::Silent]);
    session.deploy(&attempt(), &bundle).await;
    let accepted = session.report().await;
    let ack = v1::Ack {
        seq: accepted.seq,
        disposition: v1::Disposition::Unknown.into(),
    };
    session.send(Some(down::Message::Ack(ack))).await;
    let (_, outcome) = session.outcome().await;
    assert_eq!(outcome.state(), AttemptState::Cancelled, "{outcome:?}");
}

#[tokio::test]
async fn a_damaged_journal_is_replaced_and_the_identity_is_kept() {
    let (mut bench, mut session) = Bench::connected().await;
    let journal = session.hello.journal_id.clone();
    let good = bench.serve(&json!({"version": "1"}));
    session.deployed(&good).await;
    bench.stop().await;
    fs::write(bench.state_dir().join("journal.redb"), vec![0xa5; 100_000]).unwrap();
    let mut session = bench.start().await;
    assert_ne!(session.hello.journal_id, journal);
    assert_eq!(session.hello.device_id, bench.server.device.to_string());
    assert!(bench.state_dir().join("journal.redb.corrupt-1").exists());
    // What is current was found on the disk again.
    let bad = bench.serve(&json!({"version": "2", "deploy": {"script": "exit 1"}}));
    let outcome = session.deployed(&bad).await;
    assert_eq!(outcome.active.unwrap().digest, good.digest.to_string());
}

#[tokio::test]
async fn a_script_whose_journal_was_set_aside_is_found_and_killed() {
    let (mut bench, mut session) = Bench::connected().await;
    // A daemon of a release that is at work has the same marks and is nobody's business.
    let daemons = format!(
        "sleep 1000 & echo $! > {}; setsid sleep 1000 & echo $! > {}",
        bench.near("background").display(),
        bench.near("daemon").display()
    );
    let good = bench.serve(&json!({"version": "good", "deploy": {"script": daemons}}));
    session.deployed(&good).await;
    let witness = bench.witness();
    let script = format!(
        "setsid sleep 1000 & echo $! >> {0}; echo $$ >> {0}; while true; do sleep 0.05; done",
        witness.display()
    );
    let bundle = bench.serve(&json!({"version": "bad", "deploy": {"script": script}}));
    session.deploy(&attempt(), &bundle).await;
    until("both say who they are", || {
        bench.witnessed().lines().count() == 2
    })
    .await;
    let witnessed = bench.witnessed();
    bench.crash().await;
    fs::write(bench.state_dir().join("journal.redb"), vec![0xa5; 100_000]).unwrap();
    let session = bench.start().await;
    assert_eq!(session.held(), []);
    for pid in witnessed.lines() {
        assert!(!bench.lives(pid), "{pid} of the lost attempt lives");
    }
    for file in ["background", "daemon"] {
        let pid = fs::read_to_string(bench.near(file)).unwrap();
        assert!(
            bench.lives(pid.trim()),
            "the {file} of the release that runs has to live"
        );
        bench.end(pid.trim());
    }
    assert_eq!(bench.current().as_deref(), Some("good"));
}
