//! The story that `docs/walkthrough.md` tells, with thirty real agents and the bundles of
//! `examples/rollout`: a canary that fails, a deployment that takes itself back, a fix that goes
//! out in phases.

use std::{fs, path::Path};

use kernex_integration_tests::{
    Ctl, Database, Operator, TestAgent, TestServer, binaries, both_databases,
};
use kernex_proto::v1::{DeploymentResult, Device};
use serde_json::Value;

const DEVICES: usize = 30;

fn example(version: &str) -> String {
    let folder = Path::new("examples/rollout").join(version);
    binaries::workspace().join(folder).display().to_string()
}

/// The newest deployment, which is the one the command before has made.
fn newest(ctl: &Ctl<'_>) -> Value {
    ctl.json(&["deployment", "list", "--limit", "1"])[0].clone()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

fn states<'a>(deployment: &'a Value, state: &str) -> Vec<&'a Value> {
    let targets = deployment["targets"].as_array().expect("it has targets");
    let of_state = |target: &&Value| text(target, "state") == state;
    targets.iter().filter(of_state).collect()
}

/// Every device runs this version: on its disk, by its outcomes, and by a heartbeat that came
/// since.
async fn runs_everywhere(operator: &Operator, agents: &[TestAgent], version: &str) {
    let wanted = format!(r#""version": "{version}""#);
    for agent in agents {
        let manifest = agent.current_file("app", "manifest.json");
        assert!(
            manifest.is_some_and(|text| text.contains(&wanted)),
            "{}",
            agent.name
        );
        let asked = operator.device(&agent.name).await.last_seen;
        let device = operator
            .device_where(&agent.name, "to send a heartbeat", |device| {
                device.last_seen != asked
            })
            .await;
        let Device {
            releases, drifts, ..
        } = device;
        assert_eq!(releases[0].version, version, "{}", agent.name);
        assert!(drifts.is_empty(), "{}: {drifts:?}", agent.name);
    }
}

fn history(ctl: &Ctl<'_>, device: &str) -> Vec<[String; 4]> {
    let history = ctl.json(&["device", "history", device]);
    let entry = |entry: &Value| {
        ["bundle", "state", "reason", "active_version"].map(|field| text(entry, field).to_owned())
    };
    history
        .as_array()
        .expect("a list")
        .iter()
        .map(entry)
        .collect()
}

fn told(entries: &[[String; 4]]) -> Vec<[&str; 4]> {
    entries
        .iter()
        .map(|entry| entry.each_ref().map(String::as_str))
        .collect()
}

both_databases![a_canary_fails_and_is_rolled_back_and_the_fix_goes_out_in_phases];

async fn a_canary_fails_and_is_rolled_back_and_the_fix_goes_out_in_phases(database: Database) {
    let server = TestServer::start(database).await;
    let (ctl, operator) = (Ctl::on(&server), server.operator());
    let agents = server.agents(DEVICES).await;
    let seat = server.scratch().join("seat");
    let value = format!("SEAT={}", seat.display());
    let _ = ctl.ok(&["config", "set", "seats", "--to", "*", "--value", &value]);

    // 1.0 is everywhere.
    let first = ctl.run(&["deploy", &example("1.0"), "--to", "*", "--watch"]);
    assert_eq!(first.code, Some(0), "{}", first.stderr);
    runs_everywhere(&operator, &agents, "1.0").await;

    // The plan for 2.0 looks good, and three devices try it.
    let _ = ctl.ok(&["bundle", "push", &example("2.0")]);
    let plan = ctl.json(&["deploy", "--plan", "app:2.0", "--to", "*"]);
    assert_eq!(plan.as_array().map(Vec::len), Some(DEVICES), "{plan}");
    let second = ctl.run(&[
        "deploy",
        "app:2.0",
        "--to",
        "*",
        "--canary",
        "3",
        "--max-failures",
        "1",
        "--on-failure",
        "rollback",
        "--watch",
    ]);
    assert_eq!(second.code, Some(3), "{}", second.stderr);
    assert!(
        second.stderr.contains("2 failed with health_check"),
        "{}",
        second.stderr
    );
    let bad = ctl.json(&["deployment", "list", "--limit", "2"]);
    let (back, bad) = (&bad[0], text(&bad[1], "id").to_owned());
    let bad = ctl.json(&["deployment", "get", &bad]);
    assert_eq!(text(&bad, "result"), "failed", "{bad}");
    assert_eq!(
        text(&bad, "ended_reason"),
        "phase 1: 2 of 3 failed, more than the 1 allowed",
        "{bad}"
    );
    let failed = states(&bad, "failed");
    assert_eq!(failed.len(), 2, "{bad}");
    for target in &failed {
        assert_eq!(text(target, "reason"), "health_check", "{target}");
        assert!(
            text(target, "message").ends_with("; went back to 1.0"),
            "{target}"
        );
        assert_eq!(text(target, "active_version"), "1.0", "{target}");
    }
    assert_eq!(
        states(&bad, "cancelled").len(),
        DEVICES - 3,
        "the others were never told: {bad}"
    );
    let canary = states(&bad, "succeeded");
    assert_eq!(canary.len(), 1, "{bad}");
    let canary = text(canary[0], "device_name");
    assert_eq!(fs::read_link(&seat).unwrap().to_str(), Some(canary));

    // The device that succeeded goes back, too, without an order.
    assert_eq!(
        (text(back, "rolls_back"), text(back, "created_by")),
        (text(&bad, "id"), "kernex"),
        "{back}"
    );
    assert_eq!(
        operator.finished(text(back, "id")).await.result(),
        DeploymentResult::Succeeded
    );
    runs_everywhere(&operator, &agents, "1.0").await;

    // The fix goes out in phases.
    let third = ctl.run(&[
        "deploy",
        &example("2.1"),
        "--to",
        "*",
        "--phases",
        "10%,50%,100%",
        "--soak",
        "1s",
        "--watch",
    ]);
    assert_eq!(third.code, Some(0), "{}", third.stderr);
    for standing in ["phase 1 of 3", "phase 2 of 3", "phase 3 of 3"] {
        assert!(third.stderr.contains(standing), "{}", third.stderr);
    }
    let fixed = newest(&ctl);
    let phases: Vec<_> = fixed["phases"]
        .as_array()
        .unwrap()
        .iter()
        .map(|phase| {
            (
                phase["counts"]["succeeded"].as_u64(),
                phase["passed_at"].is_string(),
                phase["soaked_at"].is_string(),
            )
        })
        .collect();
    // Nothing waits for the last phase to soak.
    assert_eq!(
        phases,
        [
            (Some(3), true, true),
            (Some(12), true, true),
            (Some(15), true, false)
        ],
        "{fixed}"
    );
    runs_everywhere(&operator, &agents, "2.1").await;

    // The history of all this stays.
    assert_eq!(
        told(&history(&ctl, canary)),
        [
            ["app:2.1", "succeeded", "", "2.1"],
            ["app:1.0", "succeeded", "", "1.0"],
            ["app:2.0", "succeeded", "", "2.0"],
            ["app:1.0", "succeeded", "", "1.0"],
        ]
    );
    for target in failed {
        assert_eq!(
            told(&history(&ctl, text(target, "device_name"))),
            [
                ["app:2.1", "succeeded", "", "2.1"],
                ["app:2.0", "failed", "health_check", "1.0"],
                ["app:1.0", "succeeded", "", "1.0"],
            ]
        );
    }
    let untouched = text(states(&bad, "cancelled")[0], "device_name");
    let history = history(&ctl, untouched);
    assert_eq!(told(&history)[1][..3], ["app:2.0", "cancelled", ""]);
}
