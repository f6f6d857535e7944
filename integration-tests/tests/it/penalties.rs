//! Devices that keep failing.

use kernex_integration_tests::{Ctl, Database, TestServer, both_databases};
use kernex_proto::v1::{AttemptState, FailureReason};
use serde_json::Value;

both_databases![a_device_that_keeps_failing_is_left_out_and_the_others_go_on];

async fn a_device_that_keeps_failing_is_left_out_and_the_others_go_on(database: Database) {
    let server = TestServer::start(database).await;
    let (operator, ctl) = (server.operator(), Ctl::on(&server));
    let _bad = server.agent("edge-1").await;
    let _good = server.agent("edge-2").await;
    let script = "test \"$KERNEX_DEVICE_NAME\" = edge-2";
    let bundle = operator.push_script("app", "1.0", script).await;
    for _ in 0..3 {
        assert_eq!(
            operator.deploy_and_finish(&bundle, "edge-1").await.reason(),
            FailureReason::ScriptFailed
        );
    }
    let plan = ctl.run(&[
        "deploy", "app:1.0", "--device", "edge-1", "edge-2", "--plan", "-o", "json",
    ]);
    assert_eq!(plan.code, Some(3), "{}", plan.stderr);
    let plans: Value = serde_json::from_str(&plan.stdout).unwrap();
    assert_eq!(
        (&plans[0]["verdict"], &plans[1]["verdict"]),
        (&"penalised".into(), &"would_run".into()),
        "{plans}"
    );
    assert!(
        plans[0]["note"]
            .as_str()
            .unwrap()
            .contains("3 times in a row"),
        "{plans}"
    );

    let failed = ctl.run(&[
        "deploy", "app:1.0", "--device", "edge-1", "edge-2", "--watch",
    ]);
    assert_eq!(failed.code, Some(3), "{}", failed.stderr);
    let id = ctl.json(&["deployment", "list"])[0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let targets = operator.targets(&id).await;
    let left_out = targets
        .iter()
        .find(|target| target.device_name == "edge-1")
        .unwrap();
    assert_eq!(
        (left_out.state(), left_out.reason()),
        (AttemptState::Failed, FailureReason::Penalised)
    );
    assert!(left_out.message.contains("script_failed"), "{left_out:?}");
    assert!(
        targets
            .iter()
            .any(|target| target.state() == AttemptState::Succeeded),
        "the other one got it"
    );
}
