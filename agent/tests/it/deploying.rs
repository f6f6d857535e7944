//! Deploys that succeed and deploys that fail, step by step.

use std::time::Duration;

use kernex_proto::v1::{self, AttemptState, FailureReason, device_session_request as up};
use serde_json::json;
use tonic::Status;

use crate::{bench::Bench, fake_server::Download, session::attempt};

#[tokio::test]
async fn a_deploy_runs_its_steps_in_order_and_reports_what_is_active() {
    let (bench, mut session) = Bench::connected().await;
    let witness = bench.witness();
    let line = |step: &str| {
        let witness = witness.display();
        format!("echo {step} $KERNEX_STEP $(readlink ../../current || echo none) >> {witness}")
    };
    let hello = "echo hello from $KERNEX_DEVICE_NAME $KERNEX_DEPLOYMENT_ID";
    let bundle = bench.serve(&json!({
        "version": "1.0",
        "hooks": {"pre": line("pre"), "post": line("post")},
        "deploy": {"script": format!("{}; {hello}", line("script"))},
    }));
    let id = attempt();
    session.deploy(&id, &bundle).await;

    let accepted = session.report().await;
    assert_eq!(accepted.attempt.as_ref(), Some(&id));
    assert!(matches!(
        accepted.event,
        Some(v1::report::Event::Accepted(_))
    ));
    let (_, outcome) = session.outcome().await;
    assert_eq!(outcome.state(), AttemptState::Succeeded, "{outcome:?}");
    assert_eq!(outcome.output_tail, "hello from edge-1 deployment-1\n");
    let active = outcome.active.unwrap();
    assert_eq!(
        (active.name.as_str(), active.digest),
        ("app", bundle.digest.to_string())
    );
    assert_eq!(bench.current().as_deref(), Some("1.0"));
    let release = bench.list("bundles/app/releases").remove(0);
    assert_eq!(
        bench.witnessed(),
        format!("pre pre_hook none\nscript script none\npost post_hook releases/{release}\n")
    );
    assert!(bench.list("tmp").is_empty());
}

#[tokio::test]
async fn a_bundle_with_only_a_version_is_activated() {
    let (bench, mut session) = Bench::connected().await;
    let bundle = bench.serve(&json!({"version": "3"}));
    let outcome = session.deployed(&bundle).await;
    assert_eq!(outcome.state(), AttemptState::Succeeded, "{outcome:?}");
    assert_eq!(bench.current().as_deref(), Some("3"));
}

#[tokio::test]
async fn a_cut_download_goes_on_at_its_offset() {
    let (bench, mut session) = Bench::connected().await;
    let cut = Download::CutAfter(100_000);
    let again = Download::Refused(Status::unavailable("not yet"));
    let bundle = bench.serve_with(&json!({"version": "1.0"}), &[cut, again]);
    let outcome = session.deployed(&bundle).await;
    assert_eq!(outcome.state(), AttemptState::Succeeded, "{outcome:?}");
    assert_eq!(bench.server.offsets(), [0, 100_000, 100_000]);
}

#[tokio::test]
async fn damaged_bytes_are_fetched_once_more() {
    let (bench, mut session) = Bench::connected().await;
    let bundle = bench.serve_with(&json!({"version": "1.0"}), &[Download::Flipped]);
    let outcome = session.deployed(&bundle).await;
    assert_eq!(outcome.state(), AttemptState::Succeeded, "{outcome:?}");

    let bundle = bench.serve_with(
        &json!({"version": "2.0"}),
        &[Download::Flipped, Download::Flipped],
    );
    let outcome = session.deployed(&bundle).await;
    assert_eq!(
        outcome.reason(),
        FailureReason::DigestMismatch,
        "{outcome:?}"
    );
    assert_eq!(bench.server.offsets(), [0, 0]);
    assert_eq!(bench.current().as_deref(), Some("1.0"));
    assert!(bench.list("tmp").is_empty());
}

#[tokio::test]
async fn a_bundle_that_is_gone_fails_with_the_servers_words() {
    let (bench, mut session) = Bench::connected().await;
    for status in [
        Status::not_found("it was deleted"),
        Status::permission_denied("not yours"),
    ] {
        let words = status.message().to_owned();
        let refused = Download::Refused(status);
        let bundle = bench.serve_with(&json!({"version": "1.0"}), &[refused]);
        let outcome = session.deployed(&bundle).await;
        assert_eq!(outcome.reason(), FailureReason::Download);
        assert!(outcome.message.contains(&words), "{outcome:?}");
    }
}

#[tokio::test]
async fn an_unmet_requirement_is_named_in_the_outcome() {
    let (bench, mut session) = Bench::connected().await;
    let table = [
        (
            json!({"version": "1", "requires": {"os": "plan9"}}),
            FailureReason::Requirements,
        ),
        (
            json!({"version": "1", "requires": {"disk_bytes": 1u64 << 60}}),
            FailureReason::Requirements,
        ),
        (json!({"name": "app"}), FailureReason::ManifestInvalid),
    ];
    for (manifest, reason) in table {
        let bundle = bench.serve(&manifest);
        let outcome = session.deployed(&bundle).await;
        assert_eq!(outcome.reason(), reason, "{outcome:?}");
        assert!(bench.list("bundles/app/releases").is_empty());
    }
}

#[tokio::test]
async fn after_a_failure_the_previous_release_is_current() {
    let (bench, mut session) = Bench::connected().await;
    let good = bench.serve(&json!({"version": "good"}));
    session.deployed(&good).await;
    let post = "readlink ../../current; echo no; exit 7";
    let bad = [
        (
            json!({"version": "2", "hooks": {"pre": "echo no; exit 7"}}),
            FailureReason::Refused,
        ),
        (
            json!({"version": "3", "deploy": {"script": "echo no; exit 7"}}),
            FailureReason::ScriptFailed,
        ),
        (
            json!({"version": "4", "hooks": {"post": post}}),
            FailureReason::ScriptFailed,
        ),
    ];
    for (manifest, reason) in bad {
        let bundle = bench.serve(&manifest);
        let outcome = session.deployed(&bundle).await;
        assert_eq!(outcome.reason(), reason, "{outcome:?}");
        assert_eq!(outcome.exit_code, Some(7));
        assert!(outcome.output_tail.ends_with("no\n"));
        assert_eq!(outcome.active.unwrap().digest, good.digest.to_string());
        assert_eq!(bench.current().as_deref(), Some("good"));
        assert_eq!(bench.list("bundles/app/releases").len(), 1);
    }
}

#[tokio::test]
async fn a_script_that_outlives_its_limit_is_killed() {
    let (bench, mut session) = Bench::connected().await;
    let script = "trap '' TERM; setsid sleep 1000 & echo begun; while :; do sleep 1; done";
    let bundle = bench.serve(&json!({
        "version": "1", "deploy": {"script": script, "timeout_seconds": 1},
    }));
    let outcome = session.deployed(&bundle).await;
    assert_eq!(
        outcome.reason(),
        FailureReason::ScriptTimeout,
        "{outcome:?}"
    );
    assert_eq!(outcome.output_tail, "begun\n");
    assert_eq!(bench.current(), None);
}

#[tokio::test]
async fn a_stop_kills_the_script_and_says_cancelled() {
    let (bench, mut session) = Bench::connected().await;
    let bundle = bench.serve(&json!({"version": "1", "deploy": {"script": "sleep 1000"}}));
    let id = attempt();
    session.deploy(&id, &bundle).await;
    session.step(v1::Step::Script).await;
    let stop = Some(v1::command::Action::Stop(v1::Stop::default()));
    session.command(&id, stop).await;
    let (_, outcome) = session.outcome().await;
    assert_eq!(outcome.state(), AttemptState::Cancelled, "{outcome:?}");
}

#[tokio::test]
async fn a_stop_ends_a_download_that_hangs() {
    let (bench, mut session) = Bench::connected().await;
    let bundle = bench.serve_with(&json!({"version": "1"}), &[Download::Silent]);
    let id = attempt();
    session.deploy(&id, &bundle).await;
    session.step(v1::Step::Download).await;
    session
        .command(&id, Some(v1::command::Action::Stop(v1::Stop::default())))
        .await;
    let (_, outcome) = session.outcome().await;
    assert_eq!(outcome.state(), AttemptState::Cancelled, "{outcome:?}");
    // The next one is not held up.
    bench.serve_again(&bundle);
    let outcome = session.deployed(&bundle).await;
    assert_eq!(outcome.state(), AttemptState::Succeeded, "{outcome:?}");
}

#[tokio::test]
async fn a_stop_before_its_command_keeps_it_from_running() {
    let (bench, mut session) = Bench::connected().await;
    let script = format!("echo ran >> {}", bench.witness().display());
    let bundle = bench.serve(&json!({"version": "1", "deploy": {"script": script}}));
    let id = attempt();
    session
        .command(&id, Some(v1::command::Action::Stop(v1::Stop::default())))
        .await;
    let (seq, outcome) = session.outcome().await;
    assert_eq!(outcome.state(), AttemptState::Cancelled);
    session.ack(seq).await;
    session.deploy(&id, &bundle).await;
    let (again, outcome) = session.outcome().await;
    assert_eq!((again, outcome.state()), (seq, AttemptState::Cancelled));
    assert_eq!(bench.witnessed(), "");
}

#[tokio::test]
async fn unknown_messages_are_answered_unsupported_and_the_session_stays() {
    let (_bench, mut session) = Bench::connected().await;
    session.send(None).await;
    let plan = v1::command::Action::Plan(v1::Plan::default());
    session.command(&attempt(), Some(plan)).await;
    let mut answers = 0;
    while answers < 2 {
        if let Some(up::Message::Unsupported(_)) = session.next().await {
            answers += 1;
        }
    }
    session.command(&attempt(), None).await;
    let (_, outcome) = session.outcome().await;
    assert_eq!(outcome.reason(), FailureReason::Unsupported);
}

#[tokio::test]
async fn the_first_heartbeat_comes_at_once_and_more_follow() {
    let (_bench, mut session) = Bench::connected().await;
    for seq in 1..=2 {
        let message = tokio::time::timeout(Duration::from_secs(5), session.next())
            .await
            .unwrap();
        let Some(up::Message::Heartbeat(heartbeat)) = message else {
            panic!("{message:?} instead of a heartbeat");
        };
        assert_eq!(heartbeat.seq, seq);
        let signs = heartbeat.vital_signs.unwrap();
        assert!(
            signs.memory_total_mb > 0 && signs.disk_total_bytes > 0 && signs.uptime_seconds > 0
        );
    }
}
