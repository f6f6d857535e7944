//! Rollouts with `kernexctl`: commands, output and exit codes.

use std::fs;

use kernex_integration_tests::{
    Ctl, Database, TestServer, both_databases,
    wait::{seen, wait_for},
};
use kernex_proto::v1::DeploymentState;
use serde_json::Value;

/// Every line of a watch for programs; each is JSON and says what changed.
fn changes(ctl: &Ctl<'_>, words: &[&str]) -> (Vec<Value>, Option<i32>) {
    let (lines, code) = ctl.lines(&[words, &["-o", "json"]].concat()).to_the_end();
    let changes: Vec<Value> = lines
        .iter()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let known = |change: &Value| change["change"] == "deployment" || change["change"] == "target";
    assert!(changes.iter().all(known), "{changes:?}");
    (changes, code)
}

both_databases![
    a_canary_is_deployed_watched_paused_promoted_and_retried,
    a_watch_prints_a_json_line_for_each_change,
    phases_come_from_a_file_and_wait_for_approval,
    a_watch_outside_a_terminal_ends_where_an_operator_has_to_decide,
    a_rollback_of_canaries_that_all_failed_ends_the_deployment_and_the_watch,
    a_watch_ends_with_its_reader,
];

async fn a_canary_is_deployed_watched_paused_promoted_and_retried(database: Database) {
    let server = TestServer::start(database).await;
    let ctl = Ctl::on(&server);
    let operator = server.operator();
    let fixed = server.scratch().join("fixed");
    let mut agents = Vec::new();
    for name in ["edge-1", "edge-2", "edge-3"] {
        agents.push(server.agent(name).await);
    }
    let script = format!("test -e {}", fixed.display());
    let _ = operator.push_script("app", "1.0", &script).await;
    let made = ctl.json(&[
        "deploy",
        "app:1.0",
        "--to",
        "*",
        "--canary",
        "1",
        "--max-in-flight",
        "5",
        "--budget",
        "rack=2",
    ]);
    let id = made["id"].as_str().expect("an id").to_owned();
    wait_for("the canary to fail", || async {
        let deployment = operator.deployment(&id).await;
        seen(deployment.state() == DeploymentState::Paused, deployment)
    })
    .await;
    let shown = ctl.ok(&["deployment", "get", &id]);
    assert!(
        shown.contains("phase 1: 1 of 1 failed") && shown.contains("waiting"),
        "{shown}"
    );
    let json = ctl.json(&["deployment", "get", &id]);
    let canary = &json["phases"][0];
    assert!(
        canary["opened_at"].is_string() && canary["passed_at"].is_null(),
        "{canary}"
    );
    assert_eq!(json["phases"][1]["counts"]["held"], 2, "{json}");

    fs::write(&fixed, "").unwrap();
    let retried = ctl.run(&["deployment", "retry", &id]);
    assert_eq!(retried.code, Some(0), "{}", retried.stderr);
    assert!(
        retried.stderr.contains("1 device is tried again") && retried.stderr.contains("resume"),
        "{}",
        retried.stderr
    );
    let _ = ctl.ok(&["deployment", "resume", &id]);
    let watched = ctl.run(&["deployment", "watch", &id, "--timeout", "90s"]);
    assert_eq!(
        watched.code,
        Some(0),
        "{}\n{}",
        watched.stdout,
        watched.stderr
    );
    let promoted = ctl.run(&["deployment", "promote", &id]);
    assert_eq!(
        promoted.code,
        Some(5),
        "it is finished: {}",
        promoted.stderr
    );
}

async fn a_watch_prints_a_json_line_for_each_change(database: Database) {
    let server = TestServer::start(database).await;
    let (ctl, operator) = (Ctl::on(&server), server.operator());
    let _agent = server.agent("edge-1").await;
    for (version, script) in [("1.0", "true"), ("2.0", "true"), ("3.0", "exit 4")] {
        let _ = operator.push_script("app", version, script).await;
    }
    let first = ctl.run(&["deploy", "app:1.0", "--to", "*", "--watch"]);
    assert_eq!(first.code, Some(0), "{}", first.stderr);
    let (changes, code) = changes(&ctl, &["deploy", "app:2.0", "--to", "*", "--watch"]);
    assert_eq!(code, Some(0), "{changes:?}");
    let succeeded = |change: &Value| {
        change["target"]["state"] == "succeeded" && change["target"]["device_name"] == "edge-1"
    };
    assert!(changes.iter().any(succeeded), "{changes:?}");
    let last = &changes.last().unwrap()["deployment"];
    assert_eq!(last["result"], "succeeded", "{changes:?}");
    let id = last["id"].as_str().unwrap();
    let (changes, code) = self::changes(&ctl, &["deployment", "rollback", id, "--yes", "--watch"]);
    assert_eq!(code, Some(0), "{changes:?}");
    assert!(changes.iter().any(succeeded), "{changes:?}");
    let last = &changes.last().unwrap()["deployment"];
    assert_eq!(
        (&last["result"], last["rolls_back"].as_str()),
        (&"succeeded".into(), Some(id)),
        "{changes:?}"
    );
    let (changes, code) = self::changes(&ctl, &["deploy", "app:3.0", "--to", "*", "--watch"]);
    assert_eq!(code, Some(3), "{changes:?}");
    let failed = |change: &Value| {
        change["target"]["reason"] == "script_failed" && change["target"]["exit_code"] == 4
    };
    assert!(changes.iter().any(failed), "{changes:?}");
    assert_eq!(
        changes.last().unwrap()["deployment"]["result"],
        "failed",
        "{changes:?}"
    );
}

async fn phases_come_from_a_file_and_wait_for_approval(database: Database) {
    let server = TestServer::start(database).await;
    let ctl = Ctl::on(&server);
    let operator = server.operator();
    let mut agents = Vec::new();
    for name in ["edge-1", "edge-2"] {
        agents.push(server.agent(name).await);
    }
    let file = server.scratch().join("rollout.yaml");
    fs::write(
        &file,
        "phases:\n- size: 1\n  max-failures: 10%\napprove: true\n",
    )
    .unwrap();
    let _ = operator.push_script("app", "1.0", "true").await;
    let made = ctl.json(&[
        "deploy",
        "app:1.0",
        "--to",
        "*",
        "--phases",
        file.to_str().unwrap(),
    ]);
    let id = made["id"].as_str().expect("an id").to_owned();
    wait_for("the operator to be asked", || async {
        let deployment = operator.deployment(&id).await;
        seen(
            deployment.state() == DeploymentState::AwaitingApproval,
            deployment,
        )
    })
    .await;
    let _ = ctl.ok(&["deployment", "pause", &id, "--reason", "lunch"]);
    assert!(ctl.ok(&["deployment", "get", &id]).contains("lunch"));
    let _ = ctl.ok(&["deployment", "approve", &id]);
    operator.finished(&id).await;

    for wrong in [
        &["--phases", "5,2"][..],
        &["--phases", "1,200%"],
        &["--success", "101"],
        &["--budget", "rack"],
        &["--phases", "no-such-file.yaml"],
    ] {
        let done = ctl.run(&[&["deploy", "app:1.0", "--to", "*"], wrong].concat());
        assert!(
            matches!(done.code, Some(1 | 2)),
            "{wrong:?}: {}",
            done.stderr
        );
    }
}

async fn a_watch_outside_a_terminal_ends_where_an_operator_has_to_decide(database: Database) {
    let server = TestServer::start(database).await;
    let (ctl, operator) = (Ctl::on(&server), server.operator());
    let _agents = [server.agent("edge-1").await, server.agent("edge-2").await];
    for (version, script) in [("1.0", "true"), ("2.0", "exit 3")] {
        let _ = operator.push_script("app", version, script).await;
    }
    let canary = ["--to", "*", "--canary", "1", "--watch"];
    let approved = [&["deploy", "app:1.0", "--approve"][..], &canary].concat();
    let paused = [&["deploy", "app:2.0"][..], &canary].concat();
    for (words, why, next) in [
        (
            approved,
            "waits for approval of phase 2",
            "deployment approve",
        ),
        (
            paused,
            "is paused: phase 1: 1 of 1 failed",
            "deployment resume",
        ),
    ] {
        let ended = ctl.run(&words);
        assert_eq!(ended.code, Some(8), "{words:?}: {}", ended.stderr);
        for said in [why, next] {
            assert!(ended.stderr.contains(said), "{said}: {}", ended.stderr);
        }
    }
    // In JSON, too, the last line shows the state.
    let newest = ctl.json(&["deployment", "list", "--limit", "1"]);
    let id = newest[0]["id"].as_str().unwrap();
    let (changes, code) = changes(&ctl, &["deployment", "watch", id]);
    assert_eq!(code, Some(8), "{changes:?}");
    assert_eq!(
        changes.last().unwrap()["deployment"]["state"],
        "paused",
        "{changes:?}"
    );
}

async fn a_rollback_of_canaries_that_all_failed_ends_the_deployment_and_the_watch(
    database: Database,
) {
    let server = TestServer::start(database).await;
    let (ctl, operator) = (Ctl::on(&server), server.operator());
    let mut agents = Vec::new();
    for name in ["edge-1", "edge-2", "edge-3"] {
        agents.push(server.agent(name).await);
    }
    let _ = operator.push_script("app", "1.0", "exit 3").await;
    let ended = ctl.run(&[
        "deploy",
        "app:1.0",
        "--to",
        "*",
        "--canary",
        "2",
        "--max-failures",
        "1",
        "--on-failure",
        "rollback",
        "--watch",
    ]);
    assert_eq!(ended.code, Some(3), "{}", ended.stderr);
    let why = "phase 1: 2 of 2 failed, more than the 1 allowed; no device could go back: \
               edge-1, edge-2, edge-3: never ran the bundle successfully";
    assert!(ended.stderr.contains(why), "{}", ended.stderr);
    let newest = ctl.json(&["deployment", "list", "--limit", "1"]);
    let shown = &newest[0];
    assert_eq!(shown["result"], "failed", "{shown}");
    assert_eq!(shown["ended_reason"], why, "{shown}");
    assert_eq!(shown["paused_reason"], "", "{shown}");
    assert_eq!(shown["counts"]["cancelled"], 1, "nobody asked it: {shown}");
}

async fn a_watch_ends_with_its_reader(database: Database) {
    let server = TestServer::start(database).await;
    let (ctl, operator) = (Ctl::on(&server), server.operator());
    server.raw_device("edge-1").await;
    let bundle = operator.push_script("app", "1.0", "true").await;
    let id = operator.deploy(&bundle, &["edge-1"]).await;
    for (words, code) in [
        (&["deployment", "watch", id.as_str()][..], 130),
        (&["deployment", "watch", id.as_str(), "-o", "json"], 130),
        (&["event", "watch"], 0),
        (&["device", "list", "--watch"], 0),
    ] {
        let ended = ctl.unread(words).await;
        assert_eq!(ended, Some(code), "{words:?}");
    }
}
