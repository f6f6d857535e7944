//! A whole fleet loses its connections at once, in the middle of a deployment to all of it. Every
//! agent has to be back within a minute, no command may be lost, and devices that stayed connected
//! must not wait for those that come back.
//!
//! The agents are light ones ([`fleet`](crate::fleet)): real connections, real signatures, no
//! scripts. `count` is how many are cut.

use std::time::{Duration, Instant};

use kernex_proto::v1::{CreateDeploymentRequest, DeploymentState};
use tokio::time::sleep;

use super::{Failure, Figures, Plan};
use crate::{
    BundleBuilder, Operator, ServerOptions, TestServer,
    fleet::{Connector, Fleet, Options, Roster},
    wait::{seen, wait_for_within},
};

/// Devices that stay connected.
const STEADY: usize = 16;

/// Limit until every agent is back.
const BACK: Duration = Duration::from_secs(60);

/// Limit for first connections and for the end of deployments; no promise is about these.
const PATIENCE: Duration = Duration::from_secs(600);

/// Longest a device that stayed connected may wait for its command to be done.
const UNSTARVED: Duration = Duration::from_secs(20);

/// Cuts `plan.count` agents off at once.
pub async fn run(plan: &Plan) -> Result<Figures, Failure> {
    let options = ServerOptions::default().env("KERNEX_HEARTBEAT_INTERVAL", "10s");
    let server = TestServer::start_with(plan.database, options).await;
    let all = Roster::enrol(&server, plan.count + STEADY).await;
    let steady = all.first(STEADY);
    let mut cut = all.clone();
    cut.identities.drain(..STEADY);
    let connector = Connector::to(&server);
    let options = Options {
        spread: Duration::from_millis(plan.count as u64 * 4),
        ..Options::default()
    };
    let start = |roster| {
        Fleet::start(connector.clone(), roster, options.clone())
            .map_err(|error| Failure::new(error.to_string()))
    };
    let (calm, fleet) = (start(&steady)?, start(&cut)?);
    let mut figures = Figures::default();
    let _ = calm.all_online(PATIENCE).await;
    let first = fleet.all_online(PATIENCE).await;
    figures.slowest("first connections", first.as_secs_f64());
    plan.history
        .note(format_args!("{} agents are online", plan.count));

    let operator = server.operator();
    let names = |roster: &Roster| roster.identities.iter().map(|it| it.name.clone()).collect();
    let everybody = order(&operator, "app", names(&cut)).await?;
    wait_for_within(PATIENCE, "commands to flow", || async {
        let tally = fleet.counters().tally();
        seen(tally.outcomes >= plan.count as u64 / 10, tally)
    })
    .await;
    let before = fleet.counters().tally();
    fleet.cut();
    let storm = Instant::now();
    plan.history.note(format_args!(
        "cut all of them, after {} outcomes",
        before.outcomes
    ));
    // Deploys to the devices that stayed, until all others are back.
    let (back, waits) = tokio::join!(
        back(&fleet, before.opened),
        steadily(&operator, &fleet, &before, names(&steady))
    );
    let back = back.duration_since(storm);
    let waits = waits?;
    figures.slowest("to be back", back.as_secs_f64());
    figures.count(
        "commands to connected devices in the storm",
        waits.len() * STEADY,
    );
    for wait in &waits {
        figures.slowest(
            "command to connected devices in the storm",
            wait.as_secs_f64(),
        );
    }
    if back > BACK {
        return Err(Failure::new(format!("all were back only after {back:?}"))
            .with_dump(server.process().tail()));
    }
    if let Some(wait) = waits.iter().find(|wait| **wait > UNSTARVED) {
        return Err(Failure::new(format!(
            "devices that stayed connected waited {wait:?} for their command"
        )));
    }
    finished(&operator, &everybody).await?;
    figures.slowest(
        "the deployment's end after the cut",
        storm.elapsed().as_secs_f64(),
    );
    complete(&operator, &everybody, plan.count).await?;
    let tally = fleet.counters().tally();
    if tally.deploys != plan.count as u64 || tally.late + tally.not_applied != 0 {
        return Err(Failure::new(format!(
            "not each command arrived once: {tally:?}"
        )));
    }
    figures.count("agents cut at once", plan.count);
    for (what, number) in [
        ("refused and told to come back later", tally.refused),
        ("connections that failed", tally.failed),
        ("commands pushed again after the cut", tally.repeated),
        ("outcomes", tally.outcomes),
    ] {
        figures.count(what, usize::try_from(number).unwrap_or(usize::MAX));
    }
    Ok(figures)
}

/// The moment when every agent has opened one more session and holds it.
async fn back(fleet: &Fleet, opened_before: u64) -> Instant {
    let agents = fleet.agents() as u64;
    wait_for_within(PATIENCE, "every agent to be back", || async {
        let tally = fleet.counters().tally();
        let back = tally.opened >= opened_before + agents && tally.online == agents;
        seen(back, tally)
    })
    .await;
    Instant::now()
}

/// How long each deployment to the devices that stay connected took, while the others come back.
async fn steadily(
    operator: &Operator,
    fleet: &Fleet,
    before: &crate::fleet::CounterSnapshot,
    devices: Vec<String>,
) -> Result<Vec<Duration>, Failure> {
    let agents = fleet.agents() as u64;
    let mut waits = Vec::new();
    loop {
        let begun = Instant::now();
        let name = format!("steady-{}", waits.len());
        let id = order(operator, &name, devices.clone()).await?;
        finished(operator, &id).await?;
        waits.push(begun.elapsed());
        let tally = fleet.counters().tally();
        if tally.opened >= before.opened + agents && tally.online == agents {
            return Ok(waits);
        }
        sleep(Duration::from_millis(50)).await;
    }
}

async fn order(operator: &Operator, name: &str, devices: Vec<String>) -> Result<String, Failure> {
    let archive = BundleBuilder::script(name, "1.0", "true").gzip().await;
    let failed = |status: tonic::Status| Failure::new(format!("an order was refused: {status}"));
    let bundle = operator.try_push(&archive).await.map_err(failed)?;
    let request = CreateDeploymentRequest {
        bundle: bundle.digest,
        device_names: devices,
        ..Default::default()
    };
    operator.deploy_for(request).await.map_err(failed)
}

async fn finished(operator: &Operator, id: &str) -> Result<(), Failure> {
    let end = Instant::now() + PATIENCE;
    loop {
        let deployment = operator.deployment(id).await;
        if deployment.state() == DeploymentState::Finished {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(Failure::new(format!("it does not finish: {deployment:?}")));
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Every target succeeded.
async fn complete(operator: &Operator, id: &str, count: usize) -> Result<(), Failure> {
    let deployment = operator.deployment(id).await;
    let succeeded = deployment.counts.as_ref().map(|counts| counts.succeeded);
    if succeeded == u32::try_from(count).ok() {
        return Ok(());
    }
    Err(Failure::new(format!(
        "not all of {count} targets succeeded: {deployment:?}"
    )))
}
