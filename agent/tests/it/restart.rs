//! Scripts that expect a restart of the agent, and say so by `exit 75`.

use std::time::Duration;

use kernex_proto::v1::{self, AttemptState, FailureReason, Step};
use serde_json::json;

use crate::{
    bench::{Bench, until},
    session::attempt,
};

/// A bundle whose script waits for a restart and whose later steps leave lines.
fn restarting(bench: &Bench, script: &str) -> serde_json::Value {
    let witness = bench.witness().display().to_string();
    json!({
        "version": "new",
        "restart": "expected",
        "deploy": {"script": format!("echo script >> {witness}; {script}")},
        "hooks": {"post": format!("echo post >> {witness}")},
        "health": {"command": format!("echo health >> {witness}")},
    })
}

#[tokio::test]
async fn after_the_restart_it_asked_for_an_attempt_continues() {
    for crash in [true, false] {
        let (mut bench, mut session) = Bench::connected().await;
        let survivor = "sleep 1000 & echo $! > ../../state/survivor; echo working; exit 75";
        let bundle = bench.serve(&restarting(&bench, survivor));
        session.deploy(&attempt(), &bundle).await;
        session.step(Step::Script).await;
        bench.until_current("new").await;
        // Nothing else is said while it waits: the switch is over, and it is not "activating".
        let told = session.steps_within(Duration::from_millis(300)).await;
        assert!(told.is_empty(), "{told:?}");
        if crash {
            bench.crash().await;
        } else {
            bench.stop().await;
        }
        assert_eq!(bench.witnessed(), "script\n");
        let pid =
            std::fs::read_to_string(bench.state_dir().join("bundles/app/state/survivor")).unwrap();
        assert!(
            bench.lives(pid.trim()),
            "what restarts the machine has to live"
        );
        let mut session = bench.start().await;
        let (_, outcome) = session.outcome().await;
        assert_eq!(outcome.state(), AttemptState::Succeeded, "{outcome:?}");
        assert_eq!(bench.witnessed(), "script\npost\nhealth\n");
        assert_eq!(outcome.output_tail, "working\n");
        bench.end(pid.trim());
    }
}

#[tokio::test]
async fn an_agent_that_is_told_to_stop_before_its_script_exited_75_waits_for_it() {
    let (mut bench, mut session) = Bench::connected().await;
    let gate = bench.witness().with_extension("gate");
    let script = format!(
        "until test -e {}; do sleep 0.01; done; exit 75",
        gate.display()
    );
    let bundle = bench.serve(&restarting(&bench, &script));
    session.deploy(&attempt(), &bundle).await;
    session.step(Step::Script).await;
    bench.ask_to_stop();
    std::fs::write(&gate, "").unwrap();
    bench.stopped().await;
    let mut session = bench.start().await;
    let (_, outcome) = session.outcome().await;
    assert_eq!(outcome.state(), AttemptState::Succeeded, "{outcome:?}");
    assert_eq!(bench.witnessed(), "script\npost\nhealth\n");
}

#[tokio::test]
async fn a_restart_that_does_not_come_is_a_failure() {
    let (bench, mut session) = Bench::connected().await;
    let bundle = bench.serve(&restarting(&bench, "exit 75"));
    session
        .deploy_within(&attempt(), &bundle, Duration::from_secs(2))
        .await;
    let (_, outcome) = session.outcome().await;
    assert_eq!(
        outcome.reason(),
        FailureReason::ScriptTimeout,
        "{outcome:?}"
    );
    assert_eq!(bench.current(), None);
}

#[tokio::test]
async fn a_restart_that_comes_too_late_is_a_failure_and_the_device_goes_back() {
    let (mut bench, mut session) = Bench::connected().await;
    let good = bench.serve(&json!({"version": "good"}));
    session.deployed(&good).await;
    let bundle = bench.serve(&restarting(&bench, "exit 75"));
    let begun = std::time::Instant::now();
    let execution = Duration::from_secs(8);
    session.deploy_within(&attempt(), &bundle, execution).await;
    bench.until_current("new").await;
    bench.stop().await;
    until("its time is over", || {
        begun.elapsed() > execution + Duration::from_secs(1)
    })
    .await;
    let mut session = bench.start().await;
    let (_, outcome) = session.outcome().await;
    assert_eq!(
        outcome.reason(),
        FailureReason::ScriptTimeout,
        "{outcome:?}"
    );
    assert_eq!(
        outcome.message,
        "the restart that deploy.script asked for did not come within the execution time; \
         went back to good"
    );
    assert_eq!(bench.witnessed(), "script\n", "nothing went on");
    assert_eq!(bench.current().as_deref(), Some("good"));
}

#[tokio::test]
async fn after_a_restart_an_attempt_the_server_stopped_does_not_continue() {
    for (overdue, state) in [
        (true, AttemptState::Failed),
        (false, AttemptState::Cancelled),
    ] {
        let (mut bench, mut session) = Bench::connected().await;
        let good = bench.serve(&json!({"version": "good"}));
        session.deployed(&good).await;
        let bundle = bench.serve(&restarting(&bench, "exit 75"));
        let id = attempt();
        session.deploy(&id, &bundle).await;
        bench.until_current("new").await;
        bench.stop().await;
        let stop = v1::Stop {
            overdue,
            going_back: false,
        };
        bench.server.stop_with_welcome(&id, stop);
        let mut session = bench.start().await;
        let (_, outcome) = session.outcome().await;
        assert_eq!(outcome.state(), state, "{outcome:?}");
        assert!(
            outcome.message.ends_with("went back to good"),
            "{outcome:?}"
        );
        assert_eq!(bench.witnessed(), "script\n", "nothing went on");
        assert_eq!(bench.current().as_deref(), Some("good"));
    }
}

/// A release that asks for a restart whenever it goes back, and proves itself after that.
fn returning(bench: &Bench, with_rollback: bool) -> serde_json::Value {
    let witness = bench.witness().display().to_string();
    let says = |word: &str| format!("echo {word} $KERNEX_STEP >> {witness}");
    let restarts = "test $KERNEX_STEP = script || exit 75";
    let mut manifest = json!({
        "version": "good",
        "restart": "expected",
        "deploy": {"script": format!("{}; {restarts}", says("script"))},
        "hooks": {"post": says("post")},
        "health": {"command": says("health")},
    });
    if with_rollback {
        manifest["rollback"] = json!({"script": format!("{}; {restarts}", says("rollback"))});
    }
    manifest
}

#[tokio::test]
async fn going_back_to_a_release_that_asks_for_a_restart_continues_after_it() {
    for (with_rollback, wanted) in [
        (true, "rollback rollback\nhealth health\n"),
        (false, "script rollback\npost rollback\nhealth health\n"),
    ] {
        let (mut bench, mut session) = Bench::connected().await;
        let good = bench.serve(&returning(&bench, with_rollback));
        session.deployed(&good).await;
        bench.clear_witness();
        let bad = bench.serve(&json!({"version": "bad", "deploy": {"script": "exit 3"}}));
        session.deploy(&attempt(), &bad).await;
        bench.until_witnessed().await;
        // As the script has arranged: it ends with 75, and then the agent does.
        bench.stop().await;
        assert_eq!(bench.current().as_deref(), Some("good"));
        let mut session = bench.start().await;
        let (_, outcome) = session.outcome().await;
        assert_eq!(outcome.reason(), FailureReason::ScriptFailed, "{outcome:?}");
        assert_eq!(
            outcome.message,
            "deploy.script exited with 3; went back to good"
        );
        assert_eq!(bench.witnessed(), wanted);
        assert_eq!(outcome.active.unwrap().digest, good.digest.to_string());
    }
}

#[tokio::test]
async fn going_back_fails_when_its_restart_does_not_come_or_health_fails() {
    for comes in [true, false] {
        let (mut bench, mut session) = Bench::connected().await;
        let mut good = returning(&bench, true);
        // Well when it was deployed, and not when it comes back.
        let well = format!("test ! -e {}", bench.near("ill").display());
        good["health"] = json!({"command": well, "retries": 0});
        let good = bench.serve(&good);
        session.deployed(&good).await;
        bench.clear_witness();
        std::fs::write(bench.near("ill"), "").unwrap();
        let bad = bench.serve(&json!({"version": "bad", "deploy": {"script": "exit 3"}}));
        let execution = Duration::from_secs(if comes { 600 } else { 6 });
        session.deploy_within(&attempt(), &bad, execution).await;
        bench.until_witnessed().await;
        if comes {
            bench.stop().await;
            session = bench.start().await;
        }
        let (_, outcome) = session.outcome().await;
        assert_eq!(
            outcome.reason(),
            FailureReason::RollbackFailed,
            "{outcome:?}"
        );
        let why = if comes {
            "going back to good failed: health: 1 probes failed"
        } else {
            "going back to good failed: the restart that rollback.script asked for did not come"
        };
        assert!(outcome.message.contains(why), "{outcome:?}");
        assert_eq!(bench.current().as_deref(), Some("good"));
        assert_eq!(bench.witnessed(), "rollback rollback\n");
    }
}

#[tokio::test]
async fn a_rollback_command_continues_after_the_restart_it_asked_for() {
    let (mut bench, mut session) = Bench::connected().await;
    let old = bench.serve(&returning(&bench, true));
    session.deployed(&old).await;
    let new = bench.serve(&json!({"version": "new"}));
    session.deployed(&new).await;
    bench.clear_witness();
    session.go_back(&attempt(), &old).await;
    bench.until_witnessed().await;
    bench.stop().await;
    assert_eq!(bench.current().as_deref(), Some("good"));
    let mut session = bench.start().await;
    let (_, outcome) = session.outcome().await;
    assert_eq!(outcome.state(), AttemptState::Succeeded, "{outcome:?}");
    assert_eq!(bench.witnessed(), "rollback post_hook\nhealth health\n");
}

#[tokio::test]
async fn exit_75_without_an_expected_restart_is_a_failure() {
    let (bench, mut session) = Bench::connected().await;
    let bundle = bench.serve(&json!({"version": "1", "deploy": {"script": "exit 75"}}));
    let outcome = session.deployed(&bundle).await;
    assert_eq!(outcome.reason(), FailureReason::ScriptFailed);
    assert_eq!(outcome.exit_code, Some(75));
}
