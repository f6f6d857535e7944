//! A fleet of light agents: they connect, get commands, and reconnect when all are cut at once.

use std::time::Duration;

use kernex_integration_tests::{
    BundleBuilder, Database, Fleet, TestServer, both_databases,
    fleet::{Connector, HeartbeatPace, LABEL, Options, Roster},
    wait::{LIMIT, seen},
    wait_for,
};
use kernex_proto::v1::{AttemptState, CreateDeploymentRequest, DeploymentResult};

const AGENTS: usize = 40;

async fn deploy_to_all(server: &TestServer, version: &str) -> String {
    let archive = BundleBuilder::script("light", version, "true").gzip().await;
    let bundle = server.operator().push(&archive).await;
    let request = CreateDeploymentRequest {
        bundle: bundle.digest,
        selector: format!("{}={}", LABEL.0, LABEL.1),
        ..Default::default()
    };
    let made = server.operator().deploy_for(request).await;
    made.expect("the deployment is accepted")
}

both_databases![a_fleet_that_is_cut_comes_back_and_loses_no_command,];

/// Every agent gets each deployment once and its outcome is committed, cut or not.
async fn a_fleet_that_is_cut_comes_back_and_loses_no_command(database: Database) {
    let server = TestServer::start(database).await;
    let roster = Roster::enrol(&server, AGENTS).await;
    let options = Options {
        pace: HeartbeatPace::Every(Duration::from_millis(500)),
        ..Options::default()
    };
    let fleet =
        Fleet::start(Connector::to(&server), &roster, options).expect("there are descriptors");
    fleet.all_online(LIMIT).await;
    let first = deploy_to_all(&server, "1.0").await;
    fleet.cut();
    let second = deploy_to_all(&server, "2.0").await;
    // A command that was not received before the newer deployment never starts.
    server.operator().finished(&first).await;
    let last = server.operator().finished(&second).await;
    assert_eq!(last.result(), DeploymentResult::Succeeded);
    let settled = wait_for("every outcome to be acknowledged", || async {
        let tally = fleet.counters().tally();
        let online = tally.online == AGENTS as u64;
        seen(online && tally.outcomes == tally.deploys, tally)
    });
    let tally = settled.await;
    assert!(tally.deploys >= AGENTS as u64, "{tally:?}");
    assert_eq!((tally.repeated, tally.not_applied), (0, 0), "{tally:?}");
    // A command that is pushed when the newer deployment comes still runs, and its outcome is
    // shown.
    let targets = server.operator().targets(&first).await;
    let late: Vec<_> = targets
        .iter()
        .filter(|target| target.late_outcome)
        .collect();
    assert_eq!(tally.late, late.len() as u64, "{tally:?}");
    for target in late {
        assert_eq!(target.state(), AttemptState::Superseded, "{target:?}");
    }
    assert!(tally.opened >= 2 * AGENTS as u64, "{tally:?}");
    assert!(tally.heartbeat_acks > 0, "{tally:?}");
}
