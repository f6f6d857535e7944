//! A control plane moves to another database, and its fleet does not notice.

use std::{path::Path, process::Output};

use kernex_integration_tests::{
    BundleBuilder, Database, TestServer, both_databases, server::command,
};
use kernex_proto::v1::{
    AttemptState, Bundle, Deployment, ListBundlesRequest, ListDeploymentsRequest, Target,
};

both_databases![a_fleet_goes_on_after_its_rows_moved_and_moved_back];

/// Runs `kernex-server copy-database`.
fn copy(data: &Path, from: Option<&str>, to: &str) -> Output {
    let mut command = command("copy-database");
    command
        .arg("--data-dir")
        .arg(data)
        .env("KERNEX_COPY_TO", to);
    if let Some(from) = from {
        command.args(["--database-url", from]);
    }
    tokio::task::block_in_place(|| command.output()).expect("it runs")
}

fn refusal(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

async fn deploy(server: &TestServer, version: &str, script: &str) -> Target {
    let operator = server.operator();
    let bundle = BundleBuilder::script("app", version, script);
    let bundle = operator.push(&bundle.gzip().await).await;
    operator.deploy_and_finish(&bundle, "edge-1").await
}

/// What operators see: bundles, deployments, targets and the device.
async fn picture(server: &TestServer) -> (Vec<Bundle>, Vec<Deployment>, Vec<Target>, String) {
    let operator = server.operator();
    let mut client = operator.bundles();
    let bundles = client.list_bundles(ListBundlesRequest::default()).await;
    let bundles = bundles.expect("a list").into_inner().bundles;
    let mut client = operator.deployments();
    let request = ListDeploymentsRequest::default();
    let deployments = client.list_deployments(request).await;
    let deployments = deployments.expect("a list").into_inner().deployments;
    let mut targets = Vec::new();
    for deployment in &deployments {
        targets.extend(operator.targets(&deployment.id).await);
    }
    let device = operator.online("edge-1").await;
    let device = format!("{} {:?} {:?}", device.id, device.labels, device.releases);
    (bundles, deployments, targets, device)
}

async fn a_fleet_goes_on_after_its_rows_moved_and_moved_back(database: Database) {
    let mut server = TestServer::start(Database::Sqlite).await;
    let mut agent = server.agent("edge-1").await;
    server
        .operator()
        .label("edge-1", &[("site", "zurich")])
        .await;
    deploy(&server, "1.0", "echo one; exit 0").await;
    deploy(&server, "2.0", "echo 'two \u{1f980}'; exit 3").await;
    let before = picture(&server).await;
    assert_eq!((before.0.len(), before.1.len(), before.2.len()), (2, 2, 2));

    let file = |name: &str| format!("sqlite://{}", server.scratch().join(name).display());
    let (back, other_folder) = (file("back.db"), server.scratch().join("other"));
    let moved = database.fresh_url(&server.data()).await;
    let moved = moved.unwrap_or_else(|| file("moved.db"));
    let data = server.data();
    let told = refusal(&copy(&data, None, &moved));
    assert!(
        told.contains("another kernex-server uses the data folder"),
        "{told}"
    );
    server.stop();
    let output = copy(&data, None, &moved);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(
        said.contains("1 devices\n") && said.contains("2 attempts\n"),
        "{said}"
    );
    let told = refusal(&copy(&data, None, &moved));
    assert!(told.contains("is not empty"), "{told}");

    server.use_database(moved.clone());
    server.start_again().await;
    assert_eq!(picture(&server).await, before);
    let target = deploy(&server, "3.0", "true").await;
    assert_eq!(target.state(), AttemptState::Succeeded, "{target:?}");
    let before = picture(&server).await;
    if database == Database::Postgres {
        let told = refusal(&copy(&other_folder, Some(&moved), &back));
        assert!(told.contains("a server still uses the database"), "{told}");
    }
    server.stop();
    let output = copy(&data, Some(&moved), &back);
    assert!(output.status.success(), "{output:?}");
    server.use_database(back);
    server.start_again().await;
    assert_eq!(picture(&server).await, before);
    deploy(&server, "4.0", "true").await;
    assert!(
        agent
            .current_file("app", "manifest.json")
            .is_some_and(|text| text.contains("4.0"))
    );
    agent.stop();
}
