//! Configurations of running agents: applied at once, kept over restarts, chosen by label, or
//! refused with a reason.

use kernex_integration_tests::{
    AgentOptions, Ctl, Database, TestServer, both_databases, wait::seen, wait_for,
};
use kernex_proto::v1::{AttemptState, FailureReason};
use serde_json::Value;

async fn in_state(ctl: &Ctl<'_>, device: &str, state: &str, revision: u64) -> Value {
    wait_for(
        &format!("{device} to have revision {revision} {state}"),
        || async {
            let now = ctl.json(&["config", "get", device]);
            seen(
                now["state"] == state && now["wanted"]["revision"] == revision,
                now,
            )
        },
    )
    .await
}

both_databases![
    a_configuration_reaches_the_devices_it_selects_and_stays,
    an_invalid_configuration_is_refused_and_the_previous_one_stays,
    what_is_no_log_filter_is_refused_before_a_device_hears_of_it,
    an_offline_device_gets_its_configuration_when_it_comes_back,
];

async fn a_configuration_reaches_the_devices_it_selects_and_stays(database: Database) {
    let mut server = TestServer::start(database).await;
    let berlin = AgentOptions::named("edge-1").label("site", "berlin");
    let mut agent = server.agent_with(berlin).await;
    let _other = server.agent("edge-2").await;
    let ctl = Ctl::on(&server);
    let _ = ctl.ok(&[
        "config",
        "set",
        "berlin",
        "--to",
        "site=berlin",
        "--value",
        "SITE=berlin",
        "--max-script",
        "2s",
    ]);
    let applied = in_state(&ctl, "edge-1", "applied", 1).await;
    assert_eq!(applied["wanted"]["values"]["SITE"], "berlin");
    assert_eq!(ctl.json(&["config", "get", "edge-2"])["state"], "none");

    // The device's own configuration wins; settings that it does not have stay.
    let _ = ctl.ok(&[
        "config",
        "set",
        "one",
        "--device",
        "edge-1",
        "--value",
        "SITE=cellar",
        "--heartbeat",
        "1s",
    ]);
    let applied = in_state(&ctl, "edge-1", "applied", 2).await;
    let settings = &applied["wanted"]["settings"];
    assert_eq!(settings["max_script_seconds"], 2, "{applied}");

    // The configuration survives restarts of both ends.
    agent.kill();
    server.stop();
    server.start_again().await;
    agent.start_again();
    let operator = server.operator();
    operator.online("edge-1").await;
    let ctl = Ctl::on(&server);
    let script = "echo $KERNEX_CONFIG_SITE; sleep 3600";
    let bundle = operator.push_script("app", "1.0", script).await;
    let target = operator.deploy_and_finish(&bundle, "edge-1").await;
    assert_eq!(target.reason(), FailureReason::ScriptTimeout, "{target:?}");
    assert_eq!(target.output_tail, "cellar\n");

    let _ = ctl.ok(&["config", "delete", "one", "--yes"]);
    let applied = in_state(&ctl, "edge-1", "applied", 3).await;
    assert_eq!(applied["wanted"]["values"]["SITE"], "berlin");
    // A label that is removed takes its configuration with it.
    let _ = ctl.ok(&["device", "label", "edge-1", "site-"]);
    let applied = in_state(&ctl, "edge-1", "applied", 4).await;
    assert!(
        applied["wanted"]["values"].as_object().unwrap().is_empty(),
        "{applied}"
    );
}

async fn what_is_no_log_filter_is_refused_before_a_device_hears_of_it(database: Database) {
    let server = TestServer::start(database).await;
    let ctl = Ctl::on(&server);
    let agent = server.agent("edge-1").await;
    let set = |log: &str| {
        let words = ["config", "set", "all", "--to", "*", "--value", "A=1"];
        ctl.run(&[&words[..], &["--log", log]].concat())
    };
    let first = set("kernex_agent=debug");
    assert_eq!(first.code, Some(0), "{}", first.stderr);
    in_state(&ctl, "edge-1", "applied", 1).await;
    for bad in ["=loud=", "info,=loud=", "kernex_agent=loud"] {
        let refused = set(bad);
        assert_eq!(refused.code, Some(2), "{bad}: {}", refused.stderr);
        assert!(
            refused.stderr.contains("log") && refused.stderr.contains(bad),
            "{}",
            refused.stderr
        );
    }
    let kept = in_state(&ctl, "edge-1", "applied", 1).await;
    assert_eq!(kept["wanted"]["settings"]["log"], "kernex_agent=debug");
    // A filter that names one target does not silence the others.
    let narrow = set("some_other_crate=debug");
    assert_eq!(narrow.code, Some(0), "{}", narrow.stderr);
    in_state(&ctl, "edge-1", "applied", 2).await;
    let since = agent.process().said();
    let next = set("other=trace");
    assert_eq!(next.code, Some(0), "{}", next.stderr);
    in_state(&ctl, "edge-1", "applied", 3).await;
    wait_for("the agent to log what it does", || async {
        let log = agent
            .process()
            .has_said("took the configuration over", since);
        seen(log, agent.process().log())
    })
    .await;
}

async fn an_invalid_configuration_is_refused_and_the_previous_one_stays(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let ctl = Ctl::on(&server);
    let mut agent = server.agent("edge-1").await;
    let first = [
        "config",
        "set",
        "all",
        "--to",
        "*",
        "--value",
        "A=1",
        "--silence",
        "60s",
    ];
    let _ = ctl.ok(&first);
    in_state(&ctl, "edge-1", "applied", 1).await;
    // Each of them is well, and both together are not: a silence has to be two heartbeats.
    let second = [
        "config",
        "set",
        "one",
        "--device",
        "edge-1",
        "--value",
        "A=2",
        "--heartbeat",
        "60s",
    ];
    let _ = ctl.ok(&second);
    let refused = in_state(&ctl, "edge-1", "refused", 2).await;
    assert!(
        refused["refusal"].as_str().unwrap().contains("silence"),
        "{refused}"
    );
    assert_eq!(refused["active_revision"], 1);
    let script = "test $KERNEX_CONFIG_A = 1";
    let bundle = operator.push_script("app", "1.0", script).await;
    let target = operator.deploy_and_finish(&bundle, "edge-1").await;
    assert_eq!(target.state(), AttemptState::Succeeded, "{target:?}");
    // Nor is it lost with a restart.
    agent.kill();
    operator.offline("edge-1").await;
    agent.start_again();
    operator.online("edge-1").await;
    let bundle = operator.push_script("app", "2.0", script).await;
    let target = operator.deploy_and_finish(&bundle, "edge-1").await;
    assert_eq!(target.state(), AttemptState::Succeeded, "{target:?}");
    let kept = in_state(&ctl, "edge-1", "refused", 2).await;
    assert_eq!(kept["active_revision"], 1, "{kept}");

    // The server refuses settings that no agent could apply.
    assert_eq!(
        ctl.run(&["config", "set", "x", "--to", "*", "--value", "A-B=1"])
            .code,
        Some(2)
    );
    assert_eq!(
        ctl.run(&["config", "set", "x", "--to", "a=b,", "--value", "A=1"])
            .code,
        Some(2)
    );
    assert_eq!(
        ctl.run(&["config", "set", "x", "--device", "nobody", "--value", "A=1"])
            .code,
        Some(5)
    );
    // Only the first of two writes that name the same revision changes anything.
    for (value, code) in [("A=3", 0), ("A=4", 5)] {
        let words = ["config", "set", "all", "--to", "*", "--value", value];
        let set = ctl.run(&[&words[..], &["--revision", "1"]].concat());
        assert_eq!(set.code, Some(code), "{value}: {}", set.stderr);
    }
    assert_eq!(
        ctl.run(&["config", "delete", "nobody", "--yes"]).code,
        Some(5)
    );
}

async fn an_offline_device_gets_its_configuration_when_it_comes_back(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let ctl = Ctl::on(&server);
    let mut agent = server.agent("edge-1").await;
    agent.stop();
    operator.offline("edge-1").await;
    let _ = ctl.ok(&[
        "config",
        "set",
        "one",
        "--device",
        "edge-1",
        "--heartbeat",
        "30s",
    ]);
    let away = ctl.json(&["config", "get", "edge-1"]);
    assert_eq!(away["state"], "pending", "{away}");
    let settings = &away["wanted"]["settings"];
    assert_eq!(settings["heartbeat_interval_ms"], 30_000, "{away}");
    agent.start_again();
    in_state(&ctl, "edge-1", "applied", 1).await;
    let listed = ctl.json(&["config", "list"]);
    assert_eq!(listed[0]["name"], "one");
}
