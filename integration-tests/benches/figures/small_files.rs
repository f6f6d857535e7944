//! How long a bundle of very many small files takes to be deployed.

use std::time::{Duration, Instant};

use kernex_integration_tests::{
    AgentOptions, BundleBuilder, ServerOptions, TestAgent, TestServer, wait::seen,
    wait::wait_for_within,
};
use kernex_proto::v1::{DeploymentResult, DeploymentState};

use crate::{
    Bench,
    report::{Goal, Side, Work},
};

const FILES: usize = 100_000;

/// Files in one folder.
const TOGETHER: usize = 1000;

const ROUNDS: usize = 3;

const LIMIT: Duration = Duration::from_secs(600);

/// Measures a real agent, on the disk that temporary files are on.
pub(crate) async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let options = ServerOptions::default().env("RUST_LOG", "info");
    let server = TestServer::start_with(bench.database, options).await;
    let operator = server.operator();
    let agent = TestAgent::enrol(&server, AgentOptions::named("edge")).await;
    operator.online("edge").await;
    let files = bench.count(FILES, 2000);
    let work = Work::new(
        format!("agent: deploy of a bundle of {files} small files"),
        "s",
        Goal::AtMost(30.0),
    );
    for round in 0..bench.count(ROUNDS, 1) {
        let mut bundle = BundleBuilder::script("many", &format!("1.{round}"), "true");
        for number in 0..files {
            let name = format!("{}/{number}", number / TOGETHER);
            bundle = bundle.file(&name, format!("{round} {number}\n"));
        }
        let stored = operator.push(&bundle.gzip().await).await;
        let begun = Instant::now();
        let id = operator.deploy(&stored, &[&agent.name]).await;
        let ended = wait_for_within(LIMIT, "the deployment to end", || async {
            let deployment = operator.deployment(&id).await;
            let over = deployment.state() == DeploymentState::Finished;
            seen(over, deployment)
        });
        let ended = ended.await;
        anyhow::ensure!(
            ended.result() == DeploymentResult::Succeeded,
            "it failed: {ended:?}"
        );
        let took = begun.elapsed().as_secs_f64();
        bench.report.add(Side::Kernex, &work, took);
    }
    Ok(())
}
