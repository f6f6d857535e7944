//! After its database was restored from an older backup, a server learns from the devices what
//! happened since.

use kernex_integration_tests::{Database, TestServer, both_databases};
use kernex_proto::v1::{AttemptState, CancelDeploymentRequest};

both_databases![a_database_restored_from_an_older_backup_learns_every_outcome_since,];

async fn a_database_restored_from_an_older_backup_learns_every_outcome_since(database: Database) {
    let mut server = TestServer::start(database).await;
    let agent = server.agent("edge-1").await;
    let first = server.operator().push_script("app", "1.0", "true").await;
    server.operator().deploy_and_finish(&first, "edge-1").await;
    let gate = server.scratch().join("gate");
    let script = format!("while [ ! -e {} ]; do sleep 0.1; done", gate.display());
    let second = server.operator().push_script("app", "2.0", &script).await;
    let known = server.operator().deploy(&second, &["edge-1"]).await;
    server
        .operator()
        .target_in(&known, &[AttemptState::Running])
        .await;
    let backup = server.back_up().await.unwrap();
    // This cancel and its answer are lost with the restore; so are the next two orders.
    let operator = server.operator();
    operator.online("edge-1").await;
    let cancel = CancelDeploymentRequest {
        deployment_id: known.clone(),
        ..Default::default()
    };
    operator
        .deployments()
        .cancel_deployment(cancel)
        .await
        .unwrap();
    operator.finished(&known).await;
    assert_eq!(
        operator.target(&known).await.state(),
        AttemptState::Cancelled
    );
    let third = server.operator().push_script("app", "3.0", "true").await;
    operator.deploy_and_finish(&third, "edge-1").await;
    let fourth = server.operator().push_script("app", "4.0", "exit 1").await;
    operator.deploy_and_finish(&fourth, "edge-1").await;
    assert_eq!(
        agent
            .current_file("app", "manifest.json")
            .map(|text| text.contains("3.0")),
        Some(true)
    );

    server.restore(&backup).await.unwrap();
    server.start_again().await;
    // An operator cancels it in the restored rows, before or after its device is back. Its outcome
    // is recorded all the same.
    let operator = server.operator();
    let cancel = CancelDeploymentRequest {
        deployment_id: known.clone(),
        ..Default::default()
    };
    let _ = operator.deployments().cancel_deployment(cancel).await;
    let target = operator.target_in(&known, &[AttemptState::Cancelled]).await;
    assert_eq!(target.state(), AttemptState::Cancelled, "{target:?}");
    operator
        .device_where("edge-1", "to be known to run what it runs", |device| {
            device
                .releases
                .iter()
                .any(|release| release.version == "3.0")
        })
        .await;
    assert!(
        agent
            .process()
            .log()
            .contains("the server has lost outcomes")
    );
}
