//! Plans: verdicts, exit codes, and that nothing changes on the devices.

use kernex_integration_tests::{
    BundleBuilder, Ctl, Database, TestServer, both_databases, wait::seen, wait_for,
};
use kernex_proto::v1::AttemptState;
use serde_json::{Value, json};

fn verdicts(plans: &Value) -> Vec<(String, String)> {
    let word = |plan: &Value, field: &str| plan[field].as_str().unwrap_or_default().to_owned();
    let plans = plans.as_array().expect("a list");
    plans
        .iter()
        .map(|plan| (word(plan, "device_name"), word(plan, "verdict")))
        .collect()
}

both_databases![
    a_plan_says_what_each_device_would_do_and_changes_nothing,
    a_plan_knows_what_a_bundle_takes_unpacked,
    a_plan_of_an_unknown_bundle_fails_like_a_deployment,
];

async fn a_plan_says_what_each_device_would_do_and_changes_nothing(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let ctl = Ctl::on(&server);
    let agent = server.agent("edge-1").await;
    let mut away = server.agent("edge-2").await;
    operator.online("edge-2").await;
    away.stop();
    operator.offline("edge-2").await;

    let fine = operator.push_script("app", "1.0", "true").await;
    let plan = ctl.run(&[
        "deploy", "app:1.0", "--device", "edge-1", "edge-2", "--plan", "-o", "json",
    ]);
    assert_eq!(plan.code, Some(0), "{}", plan.stderr);
    let plans: Value = serde_json::from_str(&plan.stdout).expect("JSON");
    let wanted = [("edge-1", "would_run"), ("edge-2", "offline")];
    assert_eq!(
        verdicts(&plans),
        wanted.map(|(device, verdict)| (device.to_owned(), verdict.to_owned()))
    );
    let needed = plans[0]["answer"]["disk_needed_bytes"].as_u64().unwrap();
    assert!(
        (fine.size_bytes..64 << 20).contains(&needed),
        "archive, release and a reserve: {plans}"
    );
    assert!(
        plan.stderr.contains("1 of 2 devices could not be asked"),
        "{}",
        plan.stderr
    );
    assert!(
        ctl.json(&["deployment", "list"])
            .as_array()
            .unwrap()
            .is_empty()
    );
    assert!(agent.releases("app").is_empty() && agent.leftovers().is_empty());

    operator.deploy_and_finish(&fine, "edge-1").await;
    let plans = ctl.json(&["deploy", "app:1.0", "--device", "edge-1", "--plan"]);
    assert_eq!(plans[0]["verdict"], "already_active", "{plans}");

    let alien = json!({"name": "app", "version": "9.0", "requires": {"arch": "pdp11", "disk_bytes": 1_u64 << 62}});
    operator.push_manifest(&alien).await;
    let plan = ctl.run(&[
        "deploy", "app:9.0", "--device", "edge-1", "--plan", "-o", "json",
    ]);
    assert_eq!(plan.code, Some(3), "{}", plan.stderr);
    let plans: Value = serde_json::from_str(&plan.stdout).expect("JSON");
    let reasons: Vec<_> = plans[0]["answer"]["obstacles"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["reason"])
        .collect();
    assert_eq!(reasons, ["requirements", "disk_full"], "{plans}");

    let slow = operator.push_script("slow", "1.0", "sleep 3600").await;
    let id = operator.deploy(&slow, &["edge-1"]).await;
    operator.target_in(&id, &[AttemptState::Running]).await;
    wait_for("the device to be busy", || async {
        let plans = ctl.json(&["deploy", "app:1.0", "--device", "edge-1", "--plan"]);
        seen(plans[0]["answer"]["attempts_ahead"] == 1, plans)
    })
    .await;
    let _ = ctl.ok(&["deployment", "cancel", &id, "--yes"]);
    operator.finished(&id).await;
}

async fn a_plan_knows_what_a_bundle_takes_unpacked(database: Database) {
    let server = TestServer::start(database).await;
    let (operator, ctl) = (server.operator(), Ctl::on(&server));
    let _agent = server.agent("edge-1").await;
    // Packs well, but not like a bomb.
    let content: Vec<u8> = (0..4096_u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes().repeat(256))
        .collect();
    let unpacked = content.len() as u64;
    let archive = BundleBuilder::script("large", "1.0", "true").file("large", content);
    let large = operator.push(&archive.gzip().await).await;
    assert!(large.size_bytes * 4 < unpacked, "a guess would be too low");
    let plan = ctl.json(&["deploy", "large:1.0", "--device", "edge-1", "--plan"]);
    let needed = plan[0]["answer"]["disk_needed_bytes"].as_u64().unwrap();
    let known = large.size_bytes + unpacked;
    assert!((known..known + (3 << 20)).contains(&needed), "{plan}");
    assert_eq!(plan[0]["answer"]["has_copy"], false, "{plan}");
}

async fn a_plan_of_an_unknown_bundle_fails_like_a_deployment(database: Database) {
    let server = TestServer::start(database).await;
    let ctl = Ctl::on(&server);
    let _agent = server.agent("edge-1").await;
    assert_eq!(
        ctl.run(&["deploy", "app:1.0", "--device", "edge-1", "--plan"])
            .code,
        Some(5)
    );
    server.operator().push_script("app", "1.0", "true").await;
    assert_eq!(
        ctl.run(&["deploy", "app:1.0", "--device", "nobody", "--plan"])
            .code,
        Some(5)
    );
    let local = server.scratch().to_str().unwrap().to_owned();
    assert_eq!(
        ctl.run(&["deploy", &local, "--device", "edge-1", "--plan"])
            .code,
        Some(2)
    );
}
