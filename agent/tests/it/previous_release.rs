//! Returning to the previous release: by itself after a failure, and by a rollback command.

use kernex_proto::v1::{AttemptState, FailureReason, Step};
use serde_json::{Value, json};

use crate::{bench::Bench, session::attempt};

/// A script that leaves a line with its name, its step and its release.
fn says(bench: &Bench, name: &str) -> String {
    let line = format!("{name} $KERNEX_STEP $KERNEX_BUNDLE_VERSION");
    format!("echo {line} >> {}", bench.witness().display())
}

fn good(bench: &Bench, rollback: bool) -> Value {
    let mut manifest = json!({
        "version": "good",
        "deploy": {"script": says(bench, "script")},
        "hooks": {"post": says(bench, "post")},
    });
    if rollback {
        manifest["rollback"] = json!({"script": says(bench, "rollback")});
    }
    manifest
}

#[tokio::test]
async fn a_failure_at_any_step_brings_the_previous_release_back() {
    let (bench, mut session) = Bench::connected().await;
    for (with_rollback, bad, reason, wanted) in [
        (
            true,
            json!({"version": "bad", "deploy": {"script": "exit 3"}}),
            FailureReason::ScriptFailed,
            "rollback rollback good\n",
        ),
        (
            false,
            json!({"version": "bad", "hooks": {"post": "exit 3"}}),
            FailureReason::ScriptFailed,
            "script rollback good\npost rollback good\n",
        ),
        (
            true,
            json!({"version": "bad", "health": {"command": "exit 1", "retries": 0}}),
            FailureReason::HealthCheck,
            "rollback rollback good\n",
        ),
        (
            true,
            json!({"version": "bad", "deploy": {"script": "sleep 1000", "timeout_seconds": 1}}),
            FailureReason::ScriptTimeout,
            "rollback rollback good\n",
        ),
    ] {
        let good = bench.serve(&good(&bench, with_rollback));
        session.deployed(&good).await;
        bench.clear_witness();
        let outcome = session.deployed(&bench.serve(&bad)).await;
        assert_eq!(outcome.reason(), reason, "{outcome:?}");
        assert!(
            outcome.message.ends_with("; went back to good"),
            "{outcome:?}"
        );
        assert_eq!(outcome.active.unwrap().digest, good.digest.to_string());
        assert_eq!(bench.witnessed(), wanted, "{bad}");
        assert_eq!(bench.current().as_deref(), Some("good"));
    }
}

#[tokio::test]
async fn a_pre_hook_that_refuses_leaves_everything_as_it_was() {
    let (bench, mut session) = Bench::connected().await;
    let bundle = bench.serve(&good(&bench, true));
    session.deployed(&bundle).await;
    bench.clear_witness();
    let bad = bench.serve(&json!({"version": "bad", "hooks": {"pre": "exit 1"}}));
    let outcome = session.deployed(&bad).await;
    assert_eq!(outcome.reason(), FailureReason::Refused, "{outcome:?}");
    assert_eq!(outcome.message, "hooks.pre exited with 1");
    assert_eq!(bench.witnessed(), "");
}

#[tokio::test]
async fn a_failure_without_a_previous_release_says_so() {
    let (bench, mut session) = Bench::connected().await;
    let bad = bench.serve(&json!({"version": "bad", "hooks": {"post": "exit 3"}}));
    let outcome = session.deployed(&bad).await;
    assert_eq!(
        outcome.message,
        "hooks.post exited with 3; there is no release to go back to"
    );
    assert_eq!((outcome.active, bench.current()), (None, None));
    assert!(bench.list("bundles/app/releases").is_empty());
}

#[tokio::test]
async fn a_failed_rollback_names_both_failures() {
    let (bench, mut session) = Bench::connected().await;
    let bundle = bench.serve(&json!({"version": "good", "rollback": {"script": "exit 4"}}));
    session.deployed(&bundle).await;
    let bad = bench.serve(&json!({"version": "bad", "hooks": {"post": "exit 3"}}));
    let outcome = session.deployed(&bad).await;
    assert_eq!(outcome.reason(), FailureReason::RollbackFailed);
    assert_eq!(
        outcome.message,
        "hooks.post exited with 3; going back to good failed: rollback.script exited with 4"
    );
    // What the script of the failed release exited with, not that of going back.
    assert_eq!(outcome.exit_code, Some(3));
    assert_eq!(outcome.active.unwrap().digest, bundle.digest.to_string());
}

#[tokio::test]
async fn after_a_crash_the_rollback_script_waits_for_a_confirmed_session() {
    let (mut bench, mut session) = Bench::connected().await;
    let bundle = bench.serve(&good(&bench, true));
    session.deployed(&bundle).await;
    bench.clear_witness();
    let bad = bench.serve(&json!({"version": "bad", "hooks": {"post": "sleep 1000"}}));
    session.deploy(&attempt(), &bad).await;
    session.step(Step::PostHook).await;
    bench.crash().await;
    let mut session = bench.start().await;
    let (_, outcome) = session.outcome().await;
    assert_eq!(outcome.reason(), FailureReason::Interrupted, "{outcome:?}");
    assert!(
        outcome.message.ends_with("; went back to good"),
        "{outcome:?}"
    );
    assert_eq!(bench.witnessed(), "rollback rollback good\n");
    assert_eq!(bench.list("bundles/app/releases").len(), 1);
}

#[tokio::test]
async fn a_crash_while_going_back_does_not_run_the_rollback_script_again() {
    let (mut bench, mut session) = Bench::connected().await;
    let rollback = format!("{}; sleep 1000", says(&bench, "rollback"));
    let bundle = bench.serve(&json!({"version": "good", "rollback": {"script": rollback}}));
    session.deployed(&bundle).await;
    let bad = bench.serve(&json!({"version": "bad", "hooks": {"post": "exit 3"}}));
    session.deploy(&attempt(), &bad).await;
    session.step(Step::Rollback).await;
    bench.until_witnessed().await;
    bench.crash().await;
    let mut session = bench.start().await;
    let (_, outcome) = session.outcome().await;
    assert_eq!(outcome.reason(), FailureReason::RollbackFailed);
    assert!(
        outcome
            .message
            .starts_with("hooks.post exited with 3; going back to good failed")
    );
    assert_eq!(bench.witnessed(), "rollback rollback good\n");
    assert_eq!(outcome.active.unwrap().digest, bundle.digest.to_string());
}

#[tokio::test]
async fn a_graceful_stop_leaves_going_back_to_the_next_start() {
    let (mut bench, mut session) = Bench::connected().await;
    let bundle = bench.serve(&good(&bench, true));
    session.deployed(&bundle).await;
    bench.clear_witness();
    let bad = bench.serve(&json!({"version": "bad", "hooks": {"post": "sleep 1000"}}));
    session.deploy(&attempt(), &bad).await;
    session.step(Step::PostHook).await;
    bench.stop().await;
    assert_eq!(
        (bench.current().as_deref(), bench.witnessed().as_str()),
        (Some("good"), "")
    );
    let mut session = bench.start().await;
    let (_, outcome) = session.outcome().await;
    assert_eq!(outcome.reason(), FailureReason::Interrupted, "{outcome:?}");
    assert_eq!(bench.witnessed(), "rollback rollback good\n");
}

#[tokio::test]
async fn a_stop_kills_the_script_and_goes_back() {
    let (bench, mut session) = Bench::connected().await;
    let bundle = bench.serve(&good(&bench, true));
    session.deployed(&bundle).await;
    bench.clear_witness();
    let bad = bench.serve(&json!({"version": "bad", "deploy": {"script": "sleep 1000"}}));
    let id = attempt();
    session.deploy(&id, &bad).await;
    session.step(Step::Script).await;
    session.stop(&id).await;
    let (_, outcome) = session.outcome().await;
    assert_eq!(outcome.state(), AttemptState::Cancelled);
    assert_eq!(outcome.message, "stopped by an operator; went back to good");
    assert_eq!(bench.witnessed(), "rollback rollback good\n");
}

#[tokio::test]
async fn a_rollback_command_uses_the_release_on_the_device() {
    let (bench, mut session) = Bench::connected().await;
    let old = bench.serve(&good(&bench, true));
    session.deployed(&old).await;
    let new = bench.serve(&json!({"version": "new"}));
    session.deployed(&new).await;
    bench.clear_witness();

    bench.serve_again(&old);
    session.go_back(&attempt(), &old).await;
    let (seq, outcome) = session.outcome().await;
    session.ack(seq).await;
    assert_eq!(outcome.state(), AttemptState::Succeeded, "{outcome:?}");
    let active = outcome.active.unwrap();
    assert_eq!(active.digest, old.digest.to_string());
    assert_eq!(active.previous_digest, new.digest.to_string());
    assert_eq!(bench.server.offsets(), [] as [u64; 0]);
    assert_eq!(bench.current().as_deref(), Some("good"));
    // Once it is current again it is told as what runs after the switch.
    assert_eq!(bench.witnessed(), "rollback post_hook good\n");

    // The copy is gone, and its archive: it is fetched, and put to work like any new release.
    let newer = bench.serve(&json!({"version": "newer"}));
    session.deployed(&newer).await;
    for release in bench.list("bundles/app/releases") {
        if release.starts_with("good") && !bench.is_current(&release) {
            std::fs::remove_dir_all(bench.state_dir().join("bundles/app/releases").join(release))
                .unwrap();
        }
    }
    std::fs::remove_dir_all(bench.state_dir().join("bundles/app/archives")).unwrap();
    bench.serve_again(&old);
    session.go_back(&attempt(), &old).await;
    let (_, outcome) = session.outcome().await;
    assert_eq!(outcome.state(), AttemptState::Succeeded, "{outcome:?}");
    assert_eq!(bench.server.offsets(), [0]);
    assert!(
        bench
            .witnessed()
            .ends_with("script script good\npost post_hook good\n")
    );
}
