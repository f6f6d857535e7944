//! How costs grow with rows of devices that are not connected: what operators do daily, on a small
//! and on a large database.

use std::time::{Duration, Instant};

use kernex_integration_tests::{BundleBuilder, Operator, fleet::DeployBehaviour, samples::median};
use kernex_proto::v1::{ListDevicesRequest, ListTargetsRequest};

use crate::{
    Bench,
    report::{Goal, Side, Work},
    subject::{LIMIT, Subject},
};

/// Deployments to every device: targets are ten times the devices.
const DEPLOYMENTS: usize = 10;

/// Devices that are connected while the others are not.
const CONNECTED: usize = 64;

/// Measures both sizes of database.
pub(crate) async fn run(bench: &mut Bench) -> anyhow::Result<()> {
    for devices in [bench.count(1_000, 200), bench.count(100_000, 2_000)] {
        measure(bench, Side::Kernex, devices).await?;
        if bench.against.is_some() {
            measure(bench, Side::Reference, devices).await?;
        }
    }
    Ok(())
}

async fn measure(bench: &mut Bench, side: Side, devices: usize) -> anyhow::Result<()> {
    let mut subject = Subject::start(bench, side, devices).await?;
    let operator = subject.operator.clone();
    let mut last = String::new();
    let mut creating = Vec::new();
    for number in 0..DEPLOYMENTS {
        let name = format!("growth-{number}");
        let archive = BundleBuilder::script(&name, "1.0", "true").gzip().await;
        last = operator.push(&archive).await.digest;
        let begun = Instant::now();
        subject.push_all(&last).await?;
        creating.push(begun.elapsed().as_secs_f64() * 1e6 / devices as f64);
    }
    // A few of them come now: their commands wait for them among all the others'.
    let names = (0..CONNECTED).map(|at| subject.roster.identities[at].name.clone());
    let names: Vec<String> = names.collect();
    let whole = subject.roster.clone();
    subject.roster = whole.first(CONNECTED);
    let (fleet, _received) = subject.fleet(DeployBehaviour::Succeed)?;
    let begun = Instant::now();
    fleet.all_online(LIMIT).await;
    let all = (CONNECTED * DEPLOYMENTS) as u64;
    while fleet.counters().tally().outcomes < all {
        anyhow::ensure!(begun.elapsed() < LIMIT, "commands that waited did not come");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let delivered = begun.elapsed();
    let rows = format!("{devices} devices, {} targets", devices * DEPLOYMENTS);
    let mut add = |what: &str, unit, value| {
        let work = Work::new(format!("{what}; {rows}"), unit, Goal::Shown);
        bench.report.add(side, &work, value);
    };
    if let Some(each) = median(&creating) {
        add("create a deployment to all: per device", "us", each);
    }
    add(
        "10 waiting commands for each of 64 that connect",
        "ms",
        delivered.as_secs_f64() * 1e3,
    );
    for (what, took) in ask(&operator, &names, &last).await? {
        add(what, "ms", took);
    }
    Ok(())
}

/// What operators ask, in milliseconds: the median of a few times each.
async fn ask(
    operator: &Operator,
    names: &[String],
    digest: &str,
) -> anyhow::Result<Vec<(&'static str, f64)>> {
    const TIMES: usize = 7;
    let mut lists = Vec::new();
    let mut selects = Vec::new();
    let mut gets = Vec::new();
    let mut targets = Vec::new();
    let mut deploys = Vec::new();
    for name in names.iter().take(TIMES) {
        let begun = Instant::now();
        let page = ListDevicesRequest::default();
        operator.devices().list_devices(page).await?;
        lists.push(begun.elapsed());

        let begun = Instant::now();
        let one = ListDevicesRequest {
            selector: format!("kernex.io/name={name}"),
            ..ListDevicesRequest::default()
        };
        let found = operator.devices().list_devices(one).await?.into_inner();
        anyhow::ensure!(found.devices.len() == 1, "{name} was not found");
        selects.push(begun.elapsed());

        let begun = Instant::now();
        operator.device(name).await;
        gets.push(begun.elapsed());

        let id = operator
            .deploy_for(kernex_proto::v1::CreateDeploymentRequest {
                bundle: digest.to_owned(),
                device_names: vec![name.clone()],
                ..Default::default()
            })
            .await?;
        deploys.push(begun.elapsed());

        let begun = Instant::now();
        let page = ListTargetsRequest {
            deployment_id: id,
            ..ListTargetsRequest::default()
        };
        operator.deployments().list_targets(page).await?;
        targets.push(begun.elapsed());
    }
    let middle = |times: &[Duration]| {
        let times: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
        median(&times).unwrap_or(0.0)
    };
    Ok(vec![
        ("first page of 100 devices", middle(&lists)),
        ("select one device by name", middle(&selects)),
        ("get one device", middle(&gets)),
        ("get one device and deploy to it", middle(&deploys)),
        ("list a deployment's targets", middle(&targets)),
    ])
}
