//! Stops: answered when the running script is dead. The device then goes back and reports the
//! outcome; only an explicit halt stops that.

use std::{fs, time::Duration};

use kernex_proto::v1::{AttemptState, FailureReason, Progress, Step};
use prost::Message as _;
use serde_json::{Value, json};

use crate::{
    bench::{Bench, until},
    session::attempt,
};

/// A release whose rollback script waits for a file `back` and writes down its process id.
fn slow_to_return(bench: &Bench) -> Value {
    let script = format!(
        "echo $$ > {pid}; until test -e {gate}; do sleep 0.02; done",
        pid = bench.near("returning").display(),
        gate = bench.near("back").display(),
    );
    json!({"version": "good", "rollback": {"script": script}})
}

/// A script that writes down its process id and ignores SIGTERM.
fn stubborn(bench: &Bench) -> Value {
    let script = format!(
        "trap '' TERM; echo $$ > {}; while true; do sleep 0.05; done",
        bench.near("stubborn").display()
    );
    json!({"version": "bad", "deploy": {"script": script}})
}

fn pid(bench: &Bench, file: &str) -> String {
    let text = fs::read_to_string(bench.near(file)).unwrap_or_default();
    text.trim().to_owned()
}

async fn until_says(bench: &Bench, file: &str) -> String {
    until("a script says its process id", || {
        !pid(bench, file).is_empty()
    })
    .await;
    pid(bench, file)
}

#[tokio::test]
async fn a_stop_is_answered_when_the_script_is_dead_and_before_going_back() {
    let (bench, mut session) = Bench::connected().await;
    let good = bench.serve(&slow_to_return(&bench));
    session.deployed(&good).await;
    let bad = bench.serve(&stubborn(&bench));
    let id = attempt();
    session.deploy(&id, &bad).await;
    session.step(Step::Script).await;
    let script = until_says(&bench, "stubborn").await;

    session.stop(&id).await;
    session.stopped().await;
    assert!(!bench.lives(&script), "it is answered once it is dead");
    let returning = until_says(&bench, "returning").await;
    // The server asks again in each session; the device goes back in peace and says where it is.
    session.stop(&id).await;
    assert_eq!(session.stopped().await, Step::Rollback);
    assert!(bench.lives(&returning));

    fs::write(bench.near("back"), "").unwrap();
    let (_, outcome) = session.outcome().await;
    assert_eq!(outcome.state(), AttemptState::Cancelled, "{outcome:?}");
    assert_eq!(outcome.message, "stopped by an operator; went back to good");
    assert_eq!(outcome.active.unwrap().digest, good.digest.to_string());
}

#[tokio::test]
async fn an_answer_to_a_stop_is_repeated_in_the_next_session() {
    let (mut bench, mut session) = Bench::connected().await;
    let good = bench.serve(&slow_to_return(&bench));
    session.deployed(&good).await;
    let bad = bench.serve(&stubborn(&bench));
    let id = attempt();
    session.deploy(&id, &bad).await;
    until_says(&bench, "stubborn").await;
    session.stop(&id).await;
    until_says(&bench, "returning").await;
    session.end(tonic::Status::unavailable("gone")).await;

    let mut session = bench.server.session().await;
    session.stop(&id).await;
    assert_eq!(session.stopped().await, Step::Rollback);
    fs::write(bench.near("back"), "").unwrap();
    let (_, outcome) = session.outcome().await;
    assert_eq!(outcome.state(), AttemptState::Cancelled, "{outcome:?}");
}

#[tokio::test]
async fn going_back_that_is_stopped_leaves_its_script_unfinished_and_says_so() {
    let (bench, mut session) = Bench::connected().await;
    let good = bench.serve(&slow_to_return(&bench));
    session.deployed(&good).await;
    for stopped_before in [true, false] {
        let _ = fs::remove_file(bench.near("returning"));
        let bad = if stopped_before {
            stubborn(&bench)
        } else {
            json!({"version": "bad", "deploy": {"script": "exit 3"}})
        };
        let bad = bench.serve(&bad);
        let id = attempt();
        session.deploy(&id, &bad).await;
        if stopped_before {
            session.step(Step::Script).await;
            session.stop(&id).await;
            session.stopped().await;
        }
        let returning = until_says(&bench, "returning").await;
        session.stop_going_back(&id).await;
        let (seq, outcome) = session.outcome().await;
        session.ack(seq).await;
        assert_eq!(outcome.state(), AttemptState::Failed, "{outcome:?}");
        assert_eq!(outcome.reason(), FailureReason::RollbackFailed);
        assert!(
            outcome.message.ends_with(
                "going back to good failed: rollback.script was stopped by an operator \
                 and is unfinished"
            ),
            "{outcome:?}"
        );
        assert!(!bench.lives(&returning));
        assert_eq!(bench.current().as_deref(), Some("good"));
        assert_eq!(outcome.active.unwrap().digest, good.digest.to_string());
    }
}

#[tokio::test]
async fn a_stop_meant_for_going_back_does_not_prevent_it() {
    let (bench, mut session) = Bench::connected().await;
    let good = bench.serve(&json!({"version": "good", "rollback": {"script": "true"}}));
    session.deployed(&good).await;
    let bad = bench.serve(&stubborn(&bench));
    let id = attempt();
    session.deploy(&id, &bad).await;
    until_says(&bench, "stubborn").await;
    session.stop_going_back(&id).await;
    let (_, outcome) = session.outcome().await;
    assert_eq!(outcome.message, "stopped by an operator; went back to good");
}

#[tokio::test]
async fn going_back_can_be_stopped_after_a_restart_of_the_agent() {
    let (mut bench, mut session) = Bench::connected().await;
    let good = bench.serve(&slow_to_return(&bench));
    session.deployed(&good).await;
    let bad = bench.serve(&json!({"version": "bad", "hooks": {"post": "sleep 1000"}}));
    let id = attempt();
    session.deploy(&id, &bad).await;
    session.step(Step::PostHook).await;
    bench.stop().await;
    // It goes on with going back as soon as this session is confirmed.
    let mut session = bench.start().await;
    until_says(&bench, "returning").await;
    session.stop_going_back(&id).await;
    let (_, outcome) = session.outcome().await;
    assert_eq!(
        outcome.reason(),
        FailureReason::RollbackFailed,
        "{outcome:?}"
    );
}

#[tokio::test]
async fn going_back_that_hangs_ends_at_its_deadline() {
    let (bench, mut session) = Bench::connected().await;
    let good = bench.serve(&slow_to_return(&bench));
    session.deployed(&good).await;
    let bad = bench.serve(&json!({"version": "bad", "deploy": {"script": "exit 3"}}));
    let id = attempt();
    session
        .deploy_within(&id, &bad, Duration::from_secs(6))
        .await;
    let (_, outcome) = session.outcome().await;
    assert_eq!(
        outcome.reason(),
        FailureReason::RollbackFailed,
        "{outcome:?}"
    );
    assert!(
        outcome.message.contains("rollback.script outlived"),
        "{outcome:?}"
    );
    assert_eq!(bench.current().as_deref(), Some("good"));
    assert!(!bench.lives(&pid(&bench, "returning")));
}

/// Progress as older servers know it.
#[derive(Clone, PartialEq, prost::Message)]
struct ProgressOfBefore {
    #[prost(int32, tag = "1")]
    step: i32,
    #[prost(uint64, tag = "2")]
    bytes_done: u64,
    #[prost(uint64, tag = "3")]
    bytes_total: u64,
}

#[test]
fn an_old_server_can_read_new_progress_reports() {
    let told = Progress {
        step: Step::Script.into(),
        bytes_done: 3,
        bytes_total: 4,
        stopped: true,
    };
    let read = ProgressOfBefore::decode(told.encode_to_vec().as_slice()).unwrap();
    let known = (Step::Script.into(), 3, 4);
    assert_eq!((read.step, read.bytes_done, read.bytes_total), known);
}
