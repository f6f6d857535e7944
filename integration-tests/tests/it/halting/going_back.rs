//! A halt, and devices that go back to the release before.

use std::{fs, path::Path};

use kernex_integration_tests::{
    Ctl, Database, Operator, TestServer, both_databases,
    wait::{seen, wait_for},
};
use kernex_proto::v1::{AttemptState, DeploymentResult, FailureReason, Progress, Step, Target};
use serde_json::{Value, json};

/// A release whose rollback script waits for a file `back` and writes down its process id.
fn slow_to_return(scratch: &Path) -> Value {
    let script = format!(
        "echo $$ > {}; until test -e {}; do sleep 0.05; done",
        scratch.join("returning").display(),
        scratch.join("back").display()
    );
    json!({"name": "app", "version": "1.0", "rollback": {"script": script}})
}

/// A script that writes down its process id and ignores SIGTERM.
fn stubborn(scratch: &Path) -> Value {
    let script = format!(
        "trap '' TERM; echo $$ > {}; while true; do sleep 0.05; done",
        scratch.join("stubborn").display()
    );
    json!({"name": "app", "version": "2.0", "deploy": {"script": script}})
}

/// Waits until a script has written its process id.
async fn pid(file: &Path) -> String {
    wait_for("a script to say its process id", || async {
        let text = fs::read_to_string(file)
            .unwrap_or_default()
            .trim()
            .to_owned();
        seen(!text.is_empty(), text)
    })
    .await
}

fn lives(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

/// Waits until the only target of a deployment is shown to be going back.
async fn going_back(operator: &Operator, id: &str) -> Target {
    wait_for("the device to be shown going back", || async {
        let target = operator.target(id).await;
        let step = target.progress.as_ref().map(Progress::step);
        seen(step == Some(Step::Rollback), target)
    })
    .await
}

both_databases![
    a_halt_is_acknowledged_before_the_device_goes_back,
    a_second_halt_stops_going_back_and_names_the_unfinished_script,
    a_cancel_does_not_interrupt_going_back,
];

async fn a_halt_is_acknowledged_before_the_device_goes_back(database: Database) {
    let server = TestServer::start(database).await;
    let (ctl, operator, scratch) = (
        Ctl::on(&server),
        server.operator(),
        server.scratch().to_owned(),
    );
    let _agent = server.agent("edge-1").await;
    let good = operator.push_manifest(&slow_to_return(&scratch)).await;
    operator.deploy_and_finish(&good, "edge-1").await;
    let bad = operator.push_manifest(&stubborn(&scratch)).await;
    let id = operator.deploy(&bad, &["edge-1"]).await;
    let script = pid(&scratch.join("stubborn")).await;

    let halted = ctl.json(&["deployment", "halt", &id, "--yes", "--timeout", "60s"]);
    assert_eq!(
        (&halted[0]["acknowledged"], &halted[0]["standing"]),
        (&true.into(), &"going_back".into()),
        "{halted}"
    );
    assert!(
        !lives(&script),
        "it is acknowledged once the script is dead"
    );
    let target = going_back(&operator, &id).await;
    assert!(
        target.progress.as_ref().is_some_and(|now| now.stopped),
        "{target:?}"
    );
    assert_eq!(
        target.state(),
        AttemptState::Running,
        "what runs is not known yet"
    );
    let table = ctl.ok(&["deployment", "get", &id]);
    assert!(table.contains("going back, stopped"), "{table}");
    let device = operator.device("edge-1").await;
    assert_eq!(device.releases[0].digest, good.digest, "{device:?}");

    fs::write(scratch.join("back"), "").unwrap();
    assert_eq!(
        operator.finished(&id).await.result(),
        DeploymentResult::Cancelled
    );
    let target = operator.target(&id).await;
    assert_eq!(
        (target.state(), target.message.as_str()),
        (
            AttemptState::Cancelled,
            "stopped by an operator; went back to 1.0"
        )
    );
}

async fn a_second_halt_stops_going_back_and_names_the_unfinished_script(database: Database) {
    for halted_before in [false, true] {
        let server = TestServer::start(database).await;
        let (ctl, operator, scratch) = (
            Ctl::on(&server),
            server.operator(),
            server.scratch().to_owned(),
        );
        let agent = server.agent("edge-1").await;
        let good = operator.push_manifest(&slow_to_return(&scratch)).await;
        operator.deploy_and_finish(&good, "edge-1").await;
        let bad = if halted_before {
            stubborn(&scratch)
        } else {
            json!({"name": "app", "version": "2.0", "deploy": {"script": "exit 3"}})
        };
        let bad = operator.push_manifest(&bad).await;
        let id = operator.deploy(&bad, &["edge-1"]).await;
        if halted_before {
            pid(&scratch.join("stubborn")).await;
            let halted = ctl.json(&["deployment", "halt", &id, "--yes", "--timeout", "60s"]);
            assert_eq!(halted[0]["standing"], "going_back", "{halted}");
        }
        let script = pid(&scratch.join("returning")).await;
        going_back(&operator, &id).await;
        let halted = ctl.json(&["deployment", "halt", &id, "--yes", "--timeout", "60s"]);
        assert_eq!(
            (&halted[0]["standing"], &halted[0]["reason"]),
            (&"ended".into(), &"rollback_failed".into()),
            "{halted}"
        );
        assert!(!lives(&script));
        operator.finished(&id).await;
        let target = operator.target(&id).await;
        assert_eq!(target.reason(), FailureReason::RollbackFailed, "{target:?}");
        let unfinished = "going back to 1.0 failed: rollback.script was stopped by an operator and is unfinished";
        assert!(target.message.ends_with(unfinished), "{target:?}");
        assert!(
            agent
                .current_file("app", "manifest.json")
                .unwrap()
                .contains("1.0")
        );
        assert_eq!(
            operator.device("edge-1").await.releases[0].digest,
            good.digest
        );
    }
}

async fn a_cancel_does_not_interrupt_going_back(database: Database) {
    let server = TestServer::start(database).await;
    let (ctl, operator, scratch) = (
        Ctl::on(&server),
        server.operator(),
        server.scratch().to_owned(),
    );
    let _agent = server.agent("edge-1").await;
    let good = operator.push_manifest(&slow_to_return(&scratch)).await;
    operator.deploy_and_finish(&good, "edge-1").await;
    let bad = json!({"name": "app", "version": "2.0", "deploy": {"script": "exit 3"}});
    let bad = operator.push_manifest(&bad).await;
    let id = operator.deploy(&bad, &["edge-1"]).await;
    let script = pid(&scratch.join("returning")).await;
    going_back(&operator, &id).await;
    let _ = ctl.ok(&["deployment", "cancel", &id, "--yes"]);
    wait_for("the device to have heard of it", || async {
        let target = operator.target(&id).await;
        seen(
            target.progress.as_ref().is_some_and(|now| now.stopped),
            target,
        )
    })
    .await;
    assert!(lives(&script));
    fs::write(scratch.join("back"), "").unwrap();
    operator.finished(&id).await;
    let target = operator.target(&id).await;
    assert_eq!(
        (target.reason(), target.message.as_str()),
        (
            FailureReason::ScriptFailed,
            "deploy.script exited with 3; went back to 1.0"
        )
    );
}
