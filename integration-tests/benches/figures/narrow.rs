//! How long a halt takes to be acknowledged: of a script that runs, and on a narrow link that a
//! download has filled.

use std::{
    fs,
    time::{Duration, Instant},
};

use kernex_integration_tests::{
    AgentOptions, Operator, Proxy, ServerOptions, TestAgent, TestServer, bundle, wait::seen,
    wait_for,
};
use kernex_proto::v1::HaltDeploymentRequest;

use crate::{
    Bench,
    report::{Goal, Side, Work},
};

/// Bytes a second of the link, for all of the agent's connections together; its queue is 32 KiB.
const RATE: u64 = 150_000;
const MEGABYTES: usize = 20;
const ROUNDS: usize = 20;

/// Measures a real agent, first with nothing else to do, and then behind a link that is kept
/// narrow.
pub(crate) async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let options = ServerOptions::default().env("RUST_LOG", "info");
    let server = TestServer::start_with(bench.database, options).await;
    let operator = server.operator();
    let proxy = Proxy::to(server.port()).await;
    let agent = TestAgent::enrol(&server, AgentOptions::named("edge").through(&proxy)).await;
    operator.online("edge").await;
    scripts(bench, &operator, &agent).await?;
    let bundle = bundle::noisy("app", "1.0", MEGABYTES, "true").await;
    let bundle = operator.push(&bundle).await;
    let work = Work::new(
        "halt during a download at 150 kB/s",
        "ms",
        Goal::AtMost(1000.0),
    );
    for _ in 0..bench.count(ROUNDS, 2) {
        proxy.throttle(RATE);
        let id = operator.deploy(&bundle, &[&agent.name]).await;
        wait_for("the link to be full of the download", || async {
            let files = fs::read_dir(agent.state.join("tmp")).into_iter().flatten();
            let sizes = files
                .flatten()
                .map(|file| file.metadata().map_or(0, |meta| meta.len()));
            let done: u64 = sizes.sum();
            seen(done >= 512 << 10, done)
        })
        .await;
        let took = halt(&operator, id).await?;
        proxy.throttle(0);
        let millis = took.as_secs_f64() * 1000.0;
        bench.report.add(Side::Kernex, &work, millis);
    }
    Ok(())
}

/// Halts a script that would run for ten minutes.
async fn scripts(bench: &mut Bench, operator: &Operator, agent: &TestAgent) -> anyhow::Result<()> {
    let work = Work::new(
        "halt of a script that runs, nothing else to do",
        "ms",
        Goal::AtMost(1000.0),
    );
    for round in 0..bench.count(ROUNDS, 2) {
        let script = "touch \"$KERNEX_STATE_DIR/runs\" && exec sleep 600";
        let bundle = operator
            .push_script("sleeper", &format!("1.{round}"), script)
            .await;
        let runs = agent.state.join("bundles/sleeper/state/runs");
        let _ = fs::remove_file(&runs);
        let id = operator.deploy(&bundle, &[&agent.name]).await;
        wait_for("the script to run", || async {
            seen(runs.exists(), "it does not")
        })
        .await;
        let took = halt(operator, id).await?;
        let millis = took.as_secs_f64() * 1000.0;
        bench.report.add(Side::Kernex, &work, millis);
    }
    Ok(())
}

/// From the order to halt to the last acknowledgement.
async fn halt(operator: &Operator, deployment_id: String) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    let request = HaltDeploymentRequest {
        deployment_id: deployment_id.clone(),
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
    operator.finished(&deployment_id).await;
    Ok(took)
}
