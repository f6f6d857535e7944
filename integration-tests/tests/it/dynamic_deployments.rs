//! A deployment that devices join later.

use kernex_integration_tests::{
    AgentOptions, Ctl, Database, TestServer, both_databases,
    wait::{seen, wait_for},
};
use kernex_proto::v1::{DeploymentResult, DeploymentState};

both_databases![a_dynamic_deployment_reaches_devices_that_enrol_or_are_labelled_later];

async fn a_dynamic_deployment_reaches_devices_that_enrol_or_are_labelled_later(database: Database) {
    let server = TestServer::start(database).await;
    let (operator, ctl) = (server.operator(), Ctl::on(&server));
    operator.push_script("app", "1.0", "true").await;
    let made = ctl.deploy(&[
        "app:1.0",
        "--to",
        "site=berlin,kernex.io/os=linux",
        "--dynamic",
    ]);
    let id = made["id"].as_str().unwrap();
    assert_eq!(
        made["dynamic_selector"], "site=berlin,kernex.io/os=linux",
        "{made}"
    );
    let _one = server
        .agent_with(AgentOptions::named("edge-1").label("site", "berlin"))
        .await;
    let succeeded = |count: u32| {
        let (operator, id) = (operator.clone(), id.to_owned());
        async move {
            wait_for("the device to join and succeed", || async {
                let deployment = operator.deployment(&id).await;
                seen(
                    deployment
                        .counts
                        .as_ref()
                        .is_some_and(|counts| counts.succeeded == count),
                    deployment,
                )
            })
            .await
        }
    };
    succeeded(1).await;
    let _two = server
        .agent_with(AgentOptions::named("edge-2").label("site", "paris"))
        .await;
    let _ = ctl.ok(&["device", "label", "edge-2", "site=berlin"]);
    let deployment = succeeded(2).await;
    assert_eq!(deployment.state(), DeploymentState::Active, "it goes on");
    let refused = ctl.run(&["bundle", "delete", "app:1.0", "--yes"]);
    assert_eq!(refused.code, Some(5), "{}", refused.stderr);
    let _ = ctl.ok(&["deployment", "cancel", id, "--yes"]);
    assert_eq!(
        operator.finished(id).await.result(),
        DeploymentResult::Succeeded
    );
}
