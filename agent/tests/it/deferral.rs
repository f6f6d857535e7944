//! Deferred pre hooks (`exit 75`): the server grants each further run.

use kernex_proto::v1::{
    self, AttemptState, FailureReason, device_session_response as down, report::Event,
};
use serde_json::json;

use crate::{bench::Bench, session::attempt};

/// A bundle whose pre hook succeeds at its third run.
fn hesitant(bench: &Bench) -> serde_json::Value {
    let witness = bench.witness().display().to_string();
    let pre =
        format!("echo $KERNEX_RUN >> {witness}; echo not now; test $KERNEX_RUN = 3 || exit 75");
    json!({"version": "1", "hooks": {"pre": pre, "retry_seconds": 7}})
}

fn deferred(report: v1::Report) -> (u64, v1::Deferred) {
    match report.event {
        Some(Event::Deferred(deferred)) => (report.seq, deferred),
        other => panic!("not deferred: {other:?}"),
    }
}

#[tokio::test]
async fn each_run_runs_once_even_when_it_is_granted_twice() {
    let (mut bench, mut session) = Bench::connected().await;
    let bundle = bench.serve(&hesitant(&bench));
    let id = attempt();
    session.deploy(&id, &bundle).await;
    session.accepted().await;
    let (seq, asked) = deferred(session.report().await);
    assert_eq!((asked.run, asked.retry_after_ms), (1, 7000));
    assert_eq!(asked.message, "not now");
    session.ack(seq).await;

    // The first run again is not a new one, and is answered from the journal.
    session.deploy_run(&id, &bundle, 1).await;
    session.report().await;
    assert_eq!(deferred(session.report().await), (seq, asked.clone()));
    assert_eq!(bench.witnessed(), "1\n");

    session.deploy_run(&id, &bundle, 2).await;
    session.deploy_run(&id, &bundle, 2).await;
    let (seq, asked) = loop {
        let report = session.report().await;
        if let Some(Event::Deferred(deferred)) = report.event
            && deferred.run == 2
        {
            break (report.seq, deferred);
        }
    };
    session.ack(seq).await;
    assert_eq!(bench.witnessed(), "1\n2\n");

    // It is still known after a crash, waits, and is told again, though acknowledged.
    bench.crash().await;
    let mut session = bench.start().await;
    assert_eq!(session.held(), [AttemptState::Accepted]);
    assert_eq!(deferred(session.report().await), (seq, asked));
    session.deploy_run(&id, &bundle, 3).await;
    let (_, outcome) = session.outcome().await;
    assert_eq!(outcome.state(), AttemptState::Succeeded, "{outcome:?}");
    assert_eq!(bench.witnessed(), "1\n2\n3\n");
    // One download served all three runs.
    assert_eq!(bench.server.offsets(), [0]);
}

#[tokio::test]
async fn other_attempts_run_while_one_is_deferred_and_a_stop_ends_the_deferral() {
    let (bench, mut session) = Bench::connected().await;
    let bundle = bench.serve(&hesitant(&bench));
    let id = attempt();
    session.deploy(&id, &bundle).await;
    session.accepted().await;
    let (seq, _) = deferred(session.report().await);
    session.ack(seq).await;
    let other = bench.serve(&json!({"version": "2"}));
    let outcome = session.deployed(&other).await;
    assert_eq!(outcome.state(), AttemptState::Succeeded, "{outcome:?}");
    session.stop(&id).await;
    let (_, outcome) = session.outcome().await;
    assert_eq!(outcome.state(), AttemptState::Cancelled, "{outcome:?}");
    session.deploy_run(&id, &bundle, 2).await;
    let (_, again) = session.outcome().await;
    assert_eq!(again, outcome);
    assert_eq!(bench.witnessed(), "1\n");
}

#[tokio::test]
async fn a_server_that_cannot_ask_again_gets_a_refusal() {
    let (bench, mut session) = Bench::connected().await;
    let bundle = bench.serve(&hesitant(&bench));
    session.deploy(&attempt(), &bundle).await;
    session.accepted().await;
    let (seq, _) = deferred(session.report().await);
    let ack = v1::Ack {
        seq,
        disposition: v1::Disposition::Refused.into(),
    };
    session.send(Some(down::Message::Ack(ack))).await;
    let (_, outcome) = session.outcome().await;
    assert_eq!(outcome.reason(), FailureReason::Refused, "{outcome:?}");
}

#[tokio::test]
async fn a_later_run_of_an_unknown_attempt_is_accepted() {
    let (bench, mut session) = Bench::connected().await;
    let bundle = bench.serve(&json!({"version": "1"}));
    session.deploy_run(&attempt(), &bundle, 4).await;
    let (_, outcome) = session.outcome().await;
    assert_eq!(outcome.state(), AttemptState::Succeeded, "{outcome:?}");
}
