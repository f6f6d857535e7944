//! How long a halt takes to be acknowledged on a narrow link that a download has filled.

use std::{
    fs,
    time::{Duration, Instant},
};

use kernex_integration_tests::{
    AgentOptions, Operator, Proxy, ServerOptions, TestAgent, TestServer, bundle, wait::seen,
    wait_for,
};
use kernex_proto::v1::{Bundle, HaltDeploymentRequest};

use crate::{
    Bench,
    report::{Goal, Side, Work},
};

/// Bytes a second of the link, for all of the agent's connections together; its queue is 32 KiB.
const RATE: u64 = 150_000;
const MEGABYTES: usize = 20;
const ROUNDS: usize = 20;

/// Measures a real agent behind a link that is kept narrow.
pub(crate) async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let options = ServerOptions::default().env("RUST_LOG", "info");
    let server = TestServer::start_with(bench.database, options).await;
    let operator = server.operator();
    let proxy = Proxy::to(server.port()).await;
    let agent = TestAgent::enrol(&server, AgentOptions::named("edge").through(&proxy)).await;
    operator.online("edge").await;
    let bundle = bundle::noisy("app", "1.0", MEGABYTES, "true").await;
    let bundle = operator.push(&bundle).await;
    let work = Work::new(
        "halt during a download at 150 kB/s",
        "ms",
        Goal::AtMost(1000.0),
    );
    for _ in 0..bench.count(ROUNDS, 2) {
        proxy.throttle(RATE);
        let took = halt(&operator, &agent, &bundle).await?;
        proxy.throttle(0);
        let millis = took.as_secs_f64() * 1000.0;
        bench.report.add(Side::Kernex, &work, millis);
    }
    Ok(())
}

/// From the order to halt to the last acknowledgement.
async fn halt(operator: &Operator, agent: &TestAgent, bundle: &Bundle) -> anyhow::Result<Duration> {
    let id = operator.deploy(bundle, &[&agent.name]).await;
    wait_for("the link to be full of the download", || async {
        let files = fs::read_dir(agent.state.join("tmp")).into_iter().flatten();
        let sizes = files
            .flatten()
            .map(|file| file.metadata().map_or(0, |meta| meta.len()));
        let done: u64 = sizes.sum();
        seen(done >= 512 << 10, done)
    })
    .await;
    let begun = Instant::now();
    let request = HaltDeploymentRequest {
        deployment_id: id.clone(),
        ..Default::default()
    };
    let mut stream = operator
        .rollouts()
        .halt_deployment(request)
        .await?
        .into_inner();
    while let Some(message) = stream.message().await? {
        if message.waiting == 0 {
            break;
        }
    }
    let took = begun.elapsed();
    operator.finished(&id).await;
    Ok(took)
}
