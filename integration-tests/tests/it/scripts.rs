//! Scripts on a device: success, failure, limits, hooks, and that no process is left.

use std::fs;

use kernex_integration_tests::{
    BundleBuilder, Database, TestAgent, TestServer, both_databases,
    operator::{Operator, failed_with},
    process::processes_with,
    wait::seen,
    wait_for,
};
use kernex_proto::v1::{
    AttemptState, Bundle, CancelDeploymentRequest, DeploymentResult, FailureReason,
};
use serde_json::json;

/// Deploys version 1.0 of `app`, which simply works.
async fn with_a_good_release(operator: &Operator, agent: &TestAgent) -> Bundle {
    let archive = BundleBuilder::script("app", "1.0", "true")
        .file("version", "1.0")
        .gzip()
        .await;
    let bundle = operator.push(&archive).await;
    let target = operator.deploy_and_finish(&bundle, &agent.name).await;
    assert_eq!(target.state(), AttemptState::Succeeded, "{target:?}");
    bundle
}

async fn nothing_runs_with(marker: &str) {
    wait_for("every process of the script to be gone", || async {
        let left = processes_with(marker);
        seen(left.is_empty(), left)
    })
    .await;
}

both_databases![
    a_script_that_fails_keeps_the_previous_release_current,
    a_script_past_its_limit_dies_with_all_its_descendants,
    cancelling_kills_a_running_script,
    hooks_run_around_the_switch_and_can_refuse,
    a_device_that_does_not_meet_the_requirements_fails_with_the_reason,
];

async fn a_script_that_fails_keeps_the_previous_release_current(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let agent = server.agent("edge-1").await;
    let good = with_a_good_release(&operator, &agent).await;
    let script = "echo to-stdout; echo to-stderr >&2; exit 7";
    let archive = BundleBuilder::script("app", "2.0", script)
        .file("version", "2.0")
        .gzip()
        .await;
    let bad = operator.push(&archive).await;
    let target = operator.deploy_and_finish(&bad, "edge-1").await;
    failed_with(&target, FailureReason::ScriptFailed);
    assert_eq!(target.exit_code, Some(7));
    assert!(
        target.output_tail.contains("to-stdout") && target.output_tail.contains("to-stderr"),
        "{target:?}"
    );
    assert_eq!(agent.current_file("app", "version").as_deref(), Some("1.0"));
    assert_eq!(
        operator.device("edge-1").await.releases[0].digest,
        good.digest
    );
}

async fn a_script_past_its_limit_dies_with_all_its_descendants(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let agent = server.agent("edge-1").await;
    with_a_good_release(&operator, &agent).await;
    let marker = format!("7{}", server.port());
    let script = format!(
        "trap '' TERM; setsid sh -c 'trap \"\" TERM; sleep {marker}1' & (sleep {marker}2 &) ; sleep {marker}3; sleep {marker}4"
    );
    let bundle = operator
        .push_manifest(&json!({
            "name": "app", "version": "2.0", "deploy": {"script": script, "timeout_seconds": 2},
        }))
        .await;
    let target = operator.deploy_and_finish(&bundle, "edge-1").await;
    failed_with(&target, FailureReason::ScriptTimeout);
    nothing_runs_with(&format!("sleep {marker}")).await;
    assert_eq!(agent.current_file("app", "version").as_deref(), Some("1.0"));
}

async fn cancelling_kills_a_running_script(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let agent = server.agent("edge-1").await;
    with_a_good_release(&operator, &agent).await;
    let marker = format!("8{}", server.port());
    let bundle = operator
        .push_manifest(&json!({
            "name": "app", "version": "2.0", "deploy": {"script": format!("sleep {marker}")},
        }))
        .await;
    let id = operator.deploy(&bundle, &["edge-1"]).await;
    wait_for("the script to run", || async {
        let running = processes_with(&format!("sleep {marker}"));
        seen(!running.is_empty(), running)
    })
    .await;
    let request = CancelDeploymentRequest {
        deployment_id: id.clone(),
        ..Default::default()
    };
    operator
        .deployments()
        .cancel_deployment(request)
        .await
        .unwrap();
    assert_eq!(
        operator.finished(&id).await.result(),
        DeploymentResult::Cancelled
    );
    assert_eq!(operator.target(&id).await.state(), AttemptState::Cancelled);
    nothing_runs_with(&format!("sleep {marker}")).await;
    assert_eq!(agent.current_file("app", "version").as_deref(), Some("1.0"));
}

async fn hooks_run_around_the_switch_and_can_refuse(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let agent = server.agent("edge-1").await;
    with_a_good_release(&operator, &agent).await;
    let said_no = operator
        .push_manifest(&json!({
            "name": "app", "version": "2.0",
            "hooks": {"pre": "echo not on a Friday; exit 3"},
            "deploy": {"script": "touch \"$KERNEX_STATE_DIR/ran\""},
        }))
        .await;
    let target = operator.deploy_and_finish(&said_no, "edge-1").await;
    failed_with(&target, FailureReason::Refused);
    assert!(target.output_tail.contains("not on a Friday"), "{target:?}");
    assert_eq!(agent.current_file("app", "version").as_deref(), Some("1.0"));

    let bad_end = BundleBuilder::with_manifest(&json!({
        "name": "app", "version": "3.0", "hooks": {"post": "exit 4"},
    }))
    .file("version", "3.0")
    .gzip()
    .await;
    let target = operator
        .deploy_and_finish(&operator.push(&bad_end).await, "edge-1")
        .await;
    failed_with(&target, FailureReason::ScriptFailed);
    assert_eq!(
        agent.current_file("app", "version").as_deref(),
        Some("1.0"),
        "switched back"
    );
    assert_eq!(operator.device("edge-1").await.releases[0].version, "1.0");

    let witness = server.scratch().join("witness");
    let look = format!(
        "cat ../../current/version >> {0}; echo >> {0}",
        witness.display()
    );
    let in_order = BundleBuilder::with_manifest(&json!({
        "name": "app", "version": "4.0",
        "hooks": {"pre": look, "post": look}, "deploy": {"script": look},
    }))
    .file("version", "4.0")
    .gzip()
    .await;
    let target = operator
        .deploy_and_finish(&operator.push(&in_order).await, "edge-1")
        .await;
    assert_eq!(target.state(), AttemptState::Succeeded, "{target:?}");
    let seen = fs::read_to_string(&witness).unwrap();
    assert_eq!(
        seen.split_whitespace().collect::<Vec<_>>(),
        ["1.0", "1.0", "4.0"]
    );
}

async fn a_device_that_does_not_meet_the_requirements_fails_with_the_reason(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let agent = server.agent("edge-1").await;
    for (version, requires) in [
        ("1", json!({"os": "plan9"})),
        ("2", json!({"arch": "pdp11"})),
    ] {
        let bundle = operator
            .push_manifest(&json!({"name": "app", "version": version, "requires": requires}))
            .await;
        let target = operator.deploy_and_finish(&bundle, "edge-1").await;
        failed_with(&target, FailureReason::Requirements);
        assert!(
            target.message.contains("plan9") || target.message.contains("pdp11"),
            "{target:?}"
        );
    }
    let here = json!({"os": "linux", "arch": std::env::consts::ARCH});
    let bundle = operator
        .push_manifest(&json!({"name": "app", "version": "3", "requires": here}))
        .await;
    let target = operator.deploy_and_finish(&bundle, "edge-1").await;
    assert_eq!(target.state(), AttemptState::Succeeded, "{target:?}");
    assert!(agent.current("app").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environment_of_a_script_holds_what_is_documented_and_nothing_else() {
    let server = TestServer::start(kernex_integration_tests::Database::Sqlite).await;
    let operator = server.operator();
    let options =
        kernex_integration_tests::AgentOptions::named("edge-1").env("SECRET_OF_THE_AGENT", "hush");
    let agent = server.agent_with(options).await;
    let bundle = operator.push_manifest(&json!({
        "name": "app", "version": "1.0", "env": {"COLOUR": "green"},
        "deploy": {"script": "env; echo kept > \"$KERNEX_STATE_DIR/kept\"; ls /proc/self/fd | wc -l"},
    })).await;
    let id = operator.deploy(&bundle, &["edge-1"]).await;
    operator.finished(&id).await;
    let output = operator.target(&id).await.output_tail;
    for line in [
        "COLOUR=green",
        "HOME=/",
        "USER=",
        "LOGNAME=",
        "KERNEX_RELEASE_DIR=/",
        "KERNEX_STATE_DIR=/",
        "KERNEX_DEVICE_NAME=edge-1",
        "KERNEX_BUNDLE_NAME=app",
        "KERNEX_BUNDLE_VERSION=1.0",
        &format!("KERNEX_DEPLOYMENT_ID={id}"),
        &format!("KERNEX_BUNDLE_DIGEST={}", bundle.digest),
    ] {
        assert!(output.contains(line), "{line} is missing in {output}");
    }
    assert!(!output.contains("hush"), "{output}");
    let next = operator
        .push_manifest(&json!({
            "name": "app", "version": "2.0", "deploy": {"script": "cat \"$KERNEX_STATE_DIR/kept\""},
        }))
        .await;
    let target = operator.deploy_and_finish(&next, "edge-1").await;
    assert!(
        target.output_tail.contains("kept"),
        "state outlives releases: {target:?}"
    );
    drop(agent);
}

/// Every path that a script gets is absolute, however the agent was told its state folder.
#[tokio::test(flavor = "multi_thread")]
async fn a_relative_state_folder_gives_scripts_absolute_paths() {
    let server = TestServer::start(Database::Sqlite).await;
    let operator = server.operator();
    let here = std::env::current_dir().unwrap();
    let up = "../".repeat(here.components().count() - 1);
    let state = server.scratch().join("relative").join("edge-1");
    let relative = format!(
        "{up}{}",
        state.display().to_string().trim_start_matches('/')
    );
    let options = kernex_integration_tests::AgentOptions::named("edge-1").state(relative.into());
    let agent = server.agent_with(options).await;
    let script = "set -e; cd \"$KERNEX_RELEASE_DIR\"; cd /; ls \"$KERNEX_RELEASE_DIR/manifest.json\"; \
                  echo kept > \"$KERNEX_STATE_DIR/kept\"; ls -d \"${KERNEX_PREVIOUS_RELEASE_DIR:-/}\"";
    for version in ["1.0", "2.0"] {
        let bundle = operator
            .push_manifest(
                &json!({"name": "app", "version": version, "deploy": {"script": script}}),
            )
            .await;
        let target = operator.deploy_and_finish(&bundle, "edge-1").await;
        assert_eq!(target.state(), AttemptState::Succeeded, "{target:?}");
    }
    assert!(state.join("bundles/app/state/kept").exists());
    drop(agent);
}

/// An archive that was made on Windows has no execute bits; its `#!` lines count all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_script_that_is_not_executable_runs_beside_links_that_lead_out() {
    let server = TestServer::start(Database::Sqlite).await;
    let operator = server.operator();
    let _agent = server.agent("edge-1").await;
    let manifest = json!({
        "name": "app", "version": "1.0", "links": "any",
        "deploy": {"script": "./install.awk"}, "hooks": {"post": "[ \"$(readlink etc)\" = /etc ]"},
    });
    let archive = BundleBuilder::with_manifest(&manifest)
        .file(
            "install.awk",
            "#!/usr/bin/env -S awk -f\nBEGIN { print \"awk was here\" }\n",
        )
        .symlink("etc", "/etc")
        .gzip()
        .await;
    let bundle = operator.push(&archive).await;
    let target = operator.deploy_and_finish(&bundle, "edge-1").await;
    assert_eq!(target.state(), AttemptState::Succeeded, "{target:?}");
    assert!(target.output_tail.contains("awk was here"), "{target:?}");
}

/// The manifest asks for new privileges, and the device decides.
#[tokio::test(flavor = "multi_thread")]
async fn scripts_get_new_privileges_if_the_manifest_asks_and_the_device_allows() {
    let server = TestServer::start(Database::Sqlite).await;
    let operator = server.operator();
    let strict = kernex_integration_tests::AgentOptions::named("strict")
        .env("KERNEX_AGENT_NO_NEW_PRIVS", "always");
    let _agents = [
        server.agent("edge-1").await,
        server.agent_with(strict).await,
    ];
    for (version, asks, device, wanted) in [
        ("1", json!(false), "edge-1", "NoNewPrivs:\t0"),
        ("2", json!(null), "edge-1", "NoNewPrivs:\t1"),
        ("3", json!(false), "strict", "NoNewPrivs:\t1"),
    ] {
        let bundle = operator
            .push_manifest(&json!({
                "name": "app", "version": version, "no_new_privs": asks,
                "deploy": {"script": "grep NoNewPrivs /proc/self/status"},
            }))
            .await;
        let target = operator.deploy_and_finish(&bundle, device).await;
        assert!(target.output_tail.contains(wanted), "{version}: {target:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_left_by_a_successful_script_lives_on() {
    let server = TestServer::start(kernex_integration_tests::Database::Sqlite).await;
    let operator = server.operator();
    let _agent = server.agent("edge-1").await;
    let marker = format!("9{}", server.port());
    // The daemon keeps the script's output open, too.
    let bundle = operator.push_manifest(&json!({
        "name": "app", "version": "1.0", "deploy": {"script": format!("setsid sleep {marker} & echo started")},
    })).await;
    let target = operator.deploy_and_finish(&bundle, "edge-1").await;
    assert_eq!(target.state(), AttemptState::Succeeded, "{target:?}");
    let alive = processes_with(&format!("sleep {marker}"));
    assert!(!alive.is_empty(), "the daemon lives");
    for pid in alive {
        let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_output_is_kept_to_its_tail() {
    let server = TestServer::start(kernex_integration_tests::Database::Sqlite).await;
    let operator = server.operator();
    let _agent = server.agent("edge-1").await;
    let script =
        "i=0; while [ $i -lt 40000 ]; do echo line-$i; i=$((i+1)); done; echo the-end; exit 1";
    let bundle = operator
        .push_manifest(&json!({"name": "app", "version": "1.0", "deploy": {"script": script}}))
        .await;
    let target = operator.deploy_and_finish(&bundle, "edge-1").await;
    assert!(target.output_tail.len() <= kernex_proto::OUTPUT_TAIL_LIMIT);
    assert!(target.output_tail.trim_end().ends_with("the-end"));
    assert!(!target.output_tail.contains("line-20000\n"));
}
