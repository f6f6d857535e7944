//! The order of a deployment and the output of its scripts, as they read back.

use kernex_integration_tests::{BundleBuilder, Ctl, Database, TestServer, both_databases};
use kernex_proto::v1::{AttemptState, OutputStream, Step};
use serde_json::json;

both_databases![
    an_order_reads_back_whole,
    the_output_of_the_last_run_is_one_command,
];

async fn an_order_reads_back_whole(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    for name in ["edge-1", "edge-2", "edge-3"] {
        server.raw_device(name).await;
        operator
            .label(name, &[("site", "berlin"), ("rack", name)])
            .await;
    }
    server.raw_device("other").await;
    operator.push_script("app", "1.0", "true").await;
    let ctl = Ctl::on(&server);
    let made = ctl.json(&[
        "deploy",
        "app:1.0",
        "--to",
        "site=berlin",
        "--device",
        "other",
        "--message",
        "the fix for 17",
        "--phases",
        "1,100%",
        "--soak",
        "10m",
        "--max-failures",
        "1",
        "--on-failure",
        "rollback",
        "--approve",
        "--max-in-flight",
        "5",
        "--budget",
        "rack=2",
        "--window",
        "daily 02:00-04:00 UTC",
        "--delivery-timeout",
        "2d",
        "--execution-timeout",
        "30m",
    ]);
    let id = made["id"].as_str().expect("an id").to_owned();
    let shown = ctl.json(&["deployment", "get", &id]);
    let tokens = ctl.json(&["token", "list"]);
    let ordered = json!({
        "selector": "site=berlin",
        "named_devices": 1,
        "message": "the fix for 17",
        "created_from": "127.0.0.1",
        "token_id": tokens[0]["id"],
        "delivery_timeout_seconds": 172_800,
        "execution_timeout_seconds": 1_800,
    });
    for (field, value) in ordered.as_object().expect("fields") {
        assert_eq!(&shown[field], value, "{field}: {shown}");
    }
    let rollout = &shown["rollout"];
    assert_eq!(rollout["max_in_flight"], 5, "{rollout}");
    assert_eq!(rollout["budgets"], json!([{"label": "rack", "max": 2}]));
    assert_eq!(rollout["approval"], true, "{rollout}");
    assert_eq!(rollout["on_failure"], "rollback", "{rollout}");
    assert_eq!(rollout["phases"][0]["count"], 1, "{rollout}");
    assert_eq!(rollout["phases"][1]["percent"], 100.0, "{rollout}");
    assert_eq!(shown["created_by"], "admin");
    let first = &shown["phases"][0]["phase"];
    assert_eq!(first["soak_seconds"], 600, "{first}");
    assert_eq!(first["max_failures_count"], 1, "{first}");
    assert_eq!(shown["schedule"]["windows"][0], "daily 02:00-04:00 UTC");
    let text = ctl.ok(&["deployment", "get", &id]);
    for part in [
        "devices that match site=berlin, and 1 device by name",
        "the fix for 17",
        "by admin from 127.0.0.1",
        "2d to reach a device, 30m once it has begun",
        "2 of the same rack",
        "return what was deployed",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    let long = "x".repeat(1001);
    let refused = ctl.run(&["deploy", "app:1.0", "--device", "other", "--message", &long]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
}

async fn the_output_of_the_last_run_is_one_command(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let _agent = server.agent("edge-1").await;
    let manifest = json!({
        "name": "app", "version": "1.0",
        "hooks": { "pre": "echo ready" },
        "deploy": { "script": "echo one; sleep 0.2; echo oops >&2; sleep 0.2; echo two" },
    });
    let archive = BundleBuilder::with_manifest(&manifest).gzip().await;
    let bundle = operator.push(&archive).await;
    let target = operator.deploy_and_finish(&bundle, "edge-1").await;
    assert_eq!(target.state(), AttemptState::Succeeded);
    let marks: Vec<(Step, OutputStream)> = target
        .output_marks
        .iter()
        .map(|mark| (mark.step(), mark.stream()))
        .collect();
    assert_eq!(
        marks,
        [
            (Step::PreHook, OutputStream::Stdout),
            (Step::Script, OutputStream::Stdout),
            (Step::Script, OutputStream::Stderr),
            (Step::Script, OutputStream::Stdout),
        ]
    );
    let ctl = Ctl::on(&server);
    let text = ctl.ok(&["output", "edge-1"]);
    let expected = "--- hooks.pre\n| ready\n--- deploy.script\n| one\n! oops\n| two\n";
    assert!(text.ends_with(expected), "{text}");
    assert_eq!(
        ctl.ok(&["output", "edge-1", "--raw"]),
        "ready\none\noops\ntwo\n"
    );
    let json = ctl.json(&["output", "--deployment", &target.deployment_id]);
    assert_eq!(json[0]["device_name"], "edge-1");
    assert_eq!(json[0]["output"][2]["stream"], "stderr");
    assert_eq!(json[0]["output"][2]["text"], "oops\n");

    // After a failure the device goes back, which is a step of its own.
    let manifest = json!({
        "name": "app", "version": "2.0",
        "deploy": { "script": "echo broken; exit 7" },
    });
    let bundle = operator.push_manifest(&manifest).await;
    let target = operator.deploy_and_finish(&bundle, "edge-1").await;
    assert_eq!(target.state(), AttemptState::Failed);
    let text = ctl.ok(&["output", "edge-1"]);
    assert!(
        text.contains("--- deploy.script\n| broken\n--- going back\n"),
        "{text}"
    );
    let nobody = ctl.run(&["output", "nobody"]);
    assert_eq!(nobody.code, Some(5), "{}", nobody.stderr);
}
