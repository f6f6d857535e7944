//! Lost sessions, stopped and crashed agents, damaged journals.

use std::fs;

use kernex_proto::v1::{self, AttemptState, FailureReason, device_session_response as down};
use serde_json::json;
use tonic::Status;

use crate::{
    bench::{Bench, attempt, until},
    fake_server::Download,
};

#[tokio::test]
async fn an_unacknowledged_outcome_is_sent_in_each_session_until_it_is() {
    let mut bench = Bench::new().await;
    let mut session = bench.server.session().await;
    let bundle = bench.archive(&json!({"version": "1"}));
    let digest = bench.server.serve(&bundle, &[]);
    session.deploy(&attempt(), digest, &bundle).await;
    let (seq, _) = session.outcome().await;
    assert!(session.hello.held_attempts.is_empty());
    session.end(Status::unavailable("gone")).await;

    let mut session = bench.server.session().await;
    let held: Vec<_> = session
        .hello
        .held_attempts
        .iter()
        .map(|h| h.state())
        .collect();
    assert_eq!(held, [AttemptState::Succeeded]);
    let (again, outcome) = session.outcome().await;
    assert_eq!((again, outcome.state()), (seq, AttemptState::Succeeded));
    session.ack(seq).await;
    let drain = v1::Drain {
        reconnect_after_ms: 10,
    };
    session.send(Some(down::Message::Drain(drain))).await;

    let session = bench.server.session().await;
    assert!(session.hello.held_attempts.is_empty());
    assert_eq!(session.hello.last_epoch, session.epoch - 1);
}

#[tokio::test]
async fn a_repeated_command_is_answered_from_the_journal_also_after_a_restart() {
    let mut bench = Bench::new().await;
    let mut session = bench.server.session().await;
    let script = format!("echo ran >> {}", bench.witness().display());
    let bundle = bench.archive(&json!({"version": "1", "deploy": {"script": script}}));
    let digest = bench.server.serve(&bundle, &[]);
    let id = attempt();
    session.deploy(&id, digest, &bundle).await;
    let (seq, _) = session.outcome().await;
    session.ack(seq).await;
    session.deploy(&id, digest, &bundle).await;
    assert_eq!(session.outcome().await.0, seq);
    bench.stop().await;
    bench.start();
    let mut session = bench.server.session().await;
    session.deploy(&id, digest, &bundle).await;
    let (again, outcome) = session.outcome().await;
    assert_eq!((again, outcome.state()), (seq, AttemptState::Succeeded));
    assert_eq!(bench.witnessed(), "ran\n");
}

#[tokio::test]
async fn a_graceful_stop_kills_the_script_and_reports_interrupted() {
    let mut bench = Bench::new().await;
    let mut session = bench.server.session().await;
    let bundle = bench.archive(&json!({"version": "1", "deploy": {"script": "sleep 1000"}}));
    let digest = bench.server.serve(&bundle, &[]);
    session.deploy(&attempt(), digest, &bundle).await;
    session.step(v1::Step::Script).await;
    let told = async {
        let (seq, outcome) = session.outcome().await;
        session.ack(seq).await;
        outcome
    };
    let ((), outcome) = tokio::join!(bench.stop(), told);
    assert_eq!(outcome.reason(), FailureReason::Interrupted, "{outcome:?}");
    bench.start();
    let session = bench.server.session().await;
    assert!(session.hello.held_attempts.is_empty());
}

#[tokio::test]
async fn a_script_cut_off_by_a_crash_is_killed_and_never_run_again() {
    let mut bench = Bench::new().await;
    let mut session = bench.server.session().await;
    let witness = bench.witness();
    let script = format!(
        "setsid sleep 1000 & echo $! >> {}; sleep 1000",
        witness.display()
    );
    let bundle = bench.archive(&json!({"version": "1", "deploy": {"script": script}}));
    let digest = bench.server.serve(&bundle, &[]);
    session.deploy(&attempt(), digest, &bundle).await;
    session.step(v1::Step::Script).await;
    bench.until_witnessed().await;
    bench.crash().await;
    bench.start();

    let mut session = bench.server.session().await;
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
    let mut bench = Bench::new().await;
    let mut session = bench.server.session().await;
    let good = bench.archive(&json!({"version": "good"}));
    let digest = bench.server.serve(&good, &[]);
    session.deployed(digest, &good).await;
    let bad = bench.archive(&json!({"version": "bad", "hooks": {"post": "sleep 1000"}}));
    let wanted = bench.server.serve(&bad, &[]);
    session.deploy(&attempt(), wanted, &bad).await;
    session.step(v1::Step::PostHook).await;
    assert_eq!(bench.current().as_deref(), Some("bad"));
    bench.crash().await;
    bench.start();

    let mut session = bench.server.session().await;
    let (_, outcome) = session.outcome().await;
    assert_eq!(outcome.reason(), FailureReason::Interrupted, "{outcome:?}");
    assert_eq!(outcome.active.unwrap().digest, digest.to_string());
    assert_eq!(bench.current().as_deref(), Some("good"));
}

#[tokio::test]
async fn an_attempt_that_had_not_begun_is_resumed_after_a_crash() {
    let mut bench = Bench::new().await;
    let mut session = bench.server.session().await;
    let bundle = bench.archive(&json!({"version": "1"}));
    let digest = bench.server.serve(&bundle, &[Download::Silent]);
    session.deploy(&attempt(), digest, &bundle).await;
    session.step(v1::Step::Download).await;
    until("a download was asked for", || {
        !bench.server.offsets().is_empty()
    })
    .await;
    bench.crash().await;
    bench.start();
    let mut session = bench.server.session().await;
    let held: Vec<_> = session
        .hello
        .held_attempts
        .iter()
        .map(|h| h.state())
        .collect();
    assert_eq!(held, [AttemptState::Accepted]);
    let (_, outcome) = session.outcome().await;
    assert_eq!(outcome.state(), AttemptState::Succeeded, "{outcome:?}");
}

#[tokio::test]
async fn an_attempt_the_server_does_not_know_is_given_up() {
    let mut bench = Bench::new().await;
    let mut session = bench.server.session().await;
    let bundle = bench.archive(&json!({"version": "1"}));
    let digest = bench.server.serve(&bundle, &[Download::Silent]);
    session.deploy(&attempt(), digest, &bundle).await;
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
    let mut bench = Bench::new().await;
    let mut session = bench.server.session().await;
    let journal = session.hello.journal_id.clone();
    let bundle = bench.archive(&json!({"version": "1"}));
    let digest = bench.server.serve(&bundle, &[]);
    session.deployed(digest, &bundle).await;
    bench.stop().await;
    fs::write(bench.state_dir().join("journal.redb"), vec![0xa5; 100_000]).unwrap();
    bench.start();
    let mut session = bench.server.session().await;
    assert_ne!(session.hello.journal_id, journal);
    assert_eq!(session.hello.device_id, bench.server.device.to_string());
    assert!(bench.state_dir().join("journal.redb.corrupt-1").exists());
    // What is current was found on the disk again.
    let bundle = bench.archive(&json!({"version": "2", "deploy": {"script": "exit 1"}}));
    let wanted = bench.server.serve(&bundle, &[]);
    let outcome = session.deployed(wanted, &bundle).await;
    assert_eq!(outcome.active.unwrap().digest, digest.to_string());
}

#[tokio::test]
async fn a_script_whose_journal_was_set_aside_is_found_and_killed() {
    let mut bench = Bench::new().await;
    let mut session = bench.server.session().await;
    // A daemon of a release that is at work has the same marks and is nobody's business.
    let daemons = format!(
        "sleep 1000 & echo $! > {}; setsid sleep 1000 & echo $! > {}",
        bench.near("background").display(),
        bench.near("daemon").display()
    );
    let good = bench.archive(&json!({"version": "good", "deploy": {"script": daemons}}));
    let digest = bench.server.serve(&good, &[]);
    session.deployed(digest, &good).await;
    let witness = bench.witness();
    let script = format!(
        "setsid sleep 1000 & echo $! >> {0}; echo $$ >> {0}; while true; do sleep 0.05; done",
        witness.display()
    );
    let bundle = bench.archive(&json!({"version": "bad", "deploy": {"script": script}}));
    let wanted = bench.server.serve(&bundle, &[]);
    session.deploy(&attempt(), wanted, &bundle).await;
    until("both say who they are", || {
        bench.witnessed().lines().count() == 2
    })
    .await;
    let witnessed = bench.witnessed();
    bench.crash().await;
    fs::write(bench.state_dir().join("journal.redb"), vec![0xa5; 100_000]).unwrap();
    bench.start();
    let session = bench.server.session().await;
    assert!(session.hello.held_attempts.is_empty());
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
