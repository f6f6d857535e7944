//! A newer deployment takes the place of an older one that has not begun on a device. So an older
//! deployment never runs after a newer one.

use std::fs;

use kernex_integration_tests::{
    Database, TestAgent, TestServer, both_databases, raw_agent::succeeded,
};
use kernex_proto::v1::{
    AttemptState, Bundle, CancelDeploymentRequest, DeploymentState, Disposition,
};
use rustix::process::Signal;

/// A bundle that writes its version down where it ran.
async fn app(server: &TestServer, version: &str) -> Bundle {
    let script = format!("echo {version} >> \"$KERNEX_STATE_DIR/ran\"");
    server.operator().push_script("app", version, &script).await
}

/// Versions that ran, in order.
fn ran(agent: &TestAgent) -> Vec<String> {
    let text = fs::read_to_string(agent.state.join("bundles/app/state/ran"));
    let text = text.unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Deploys app:1.0 into the session of an agent that hangs and is then killed.
async fn pushed_and_never_taken(server: &TestServer, agent: &mut TestAgent) -> String {
    let operator = server.operator();
    agent.signal(Signal::STOP);
    let older = app(server, "1.0").await;
    let older = operator.deploy(&older, &["edge-1"]).await;
    operator.target_in(&older, &[AttemptState::Sent]).await;
    agent.kill();
    older
}

both_databases![
    an_older_attempt_that_was_never_received_is_superseded,
    stopping_an_attempt_that_was_never_received_needs_no_answer,
    a_newer_deployment_supersedes_one_that_has_not_begun,
    a_newer_deployment_waits_for_an_attempt_that_was_just_pushed,
];

async fn an_older_attempt_that_was_never_received_is_superseded(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut agent = server.agent("edge-1").await;
    let older = pushed_and_never_taken(&server, &mut agent).await;
    let newer = operator
        .deploy(&app(&server, "3.0").await, &["edge-1"])
        .await;
    agent.start_again();
    operator.finished(&newer).await;
    assert_eq!(
        operator.target(&newer).await.state(),
        AttemptState::Succeeded
    );
    assert_eq!(
        operator.target(&older).await.state(),
        AttemptState::Superseded
    );
    assert_eq!(ran(&agent), ["3.0"]);
    // The list came before the deployment, so the older attempt is superseded at once.
    agent.signal(Signal::STOP);
    let again = operator
        .deploy(&app(&server, "4.0").await, &["edge-1"])
        .await;
    operator.target_in(&again, &[AttemptState::Sent]).await;
    agent.kill();
    agent.start_again();
    operator.finished(&again).await;
    assert_eq!(
        ran(&agent),
        ["3.0", "4.0"],
        "nothing newer came, so it is still wanted"
    );
}

async fn stopping_an_attempt_that_was_never_received_needs_no_answer(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut agent = server.agent("edge-1").await;
    let older = pushed_and_never_taken(&server, &mut agent).await;
    let cancel = CancelDeploymentRequest {
        deployment_id: older.clone(),
        ..Default::default()
    };
    operator
        .deployments()
        .cancel_deployment(cancel)
        .await
        .unwrap();
    let target = operator.target(&older).await;
    assert!(
        target.state() == AttemptState::Sent && target.stop_requested,
        "the device may have it: {target:?}"
    );
    agent.start_again();
    operator.finished(&older).await;
    let target = operator.target(&older).await;
    assert!(
        target.state() == AttemptState::Cancelled && !target.late_outcome,
        "{target:?}"
    );
    let newer = operator
        .deploy(&app(&server, "2.0").await, &["edge-1"])
        .await;
    operator.finished(&newer).await;
    assert_eq!(ran(&agent), ["2.0"]);
}

async fn a_newer_deployment_supersedes_one_that_has_not_begun(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut device = server.raw_device("edge-1").await;
    let old = operator.push_script("app", "1.0", "true").await;
    let new = operator.push_script("app", "2.0", "true").await;
    let other = operator.push_script("other", "1.0", "true").await;
    let first = operator.deploy(&old, &["edge-1"]).await;
    operator.deploy(&other, &["edge-1"]).await;
    operator.deploy(&new, &["edge-1"]).await;
    assert_eq!(
        operator.target(&first).await.state(),
        AttemptState::Superseded
    );
    assert_eq!(
        operator.deployment(&first).await.state(),
        DeploymentState::Finished
    );
    let mut session = device.connect(&server).await;
    let mut told = [
        session.deploy_command().await.1,
        session.deploy_command().await.1,
    ]
    .map(|deploy| format!("{}:{}", deploy.name, deploy.version));
    told.sort_unstable();
    assert_eq!(
        told,
        ["app:2.0", "other:1.0"],
        "names are independent of each other"
    );
}

async fn a_newer_deployment_waits_for_an_attempt_that_was_just_pushed(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut device = server.raw_device("edge-1").await;
    let old = operator.push_script("app", "1.0", "true").await;
    let new = operator.push_script("app", "2.0", "true").await;
    let mut session = device.connect(&server).await;
    let first = operator.deploy(&old, &["edge-1"]).await;
    let (command, deploy) = session.deploy_command().await;
    // The device has not answered, and the push may not be written yet.
    operator.deploy(&new, &["edge-1"]).await;
    assert_eq!(operator.target(&first).await.state(), AttemptState::Sent);
    session.accept(&command, 1).await;
    assert_eq!(
        session.outcome(&command, 2, succeeded(&deploy)).await,
        Disposition::Applied
    );
    assert_eq!(
        session.deploy_command().await.1.version,
        "2.0",
        "it waited for its turn"
    );
    assert_eq!(
        operator.target(&first).await.state(),
        AttemptState::Succeeded
    );
}
