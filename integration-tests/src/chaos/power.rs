//! Power cuts at random moments: what was not synced is gone, on the devices' disks and on the
//! server's.
//!
//! Every device and the server's data folder have an ext4 file system of their own ([`DiskImage`]).
//! A cut stops it without writing its log out, kills whoever used it, mounts it again, and starts
//! the program again. The witnesses lie elsewhere. What the server's disk may lose is only what
//! nobody was told of: every order that was seen to succeed is remembered and has to be there in
//! the end.

use std::{collections::BTreeSet, io, sync::Arc, time::Duration};

use rand::RngExt as _;
use tokio::{
    task::{JoinSet, block_in_place},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    Failure, Figures, History, Plan, World,
    kills::{broken, watch},
    rows::RawDatabase,
    traffic::Traffic,
};
use crate::{
    TestAgent, TestServer,
    disk_image::{self, DiskImage},
};

const DEVICES: usize = 8;

/// Power cuts before each check of the rules.
const ROUND: usize = 100;

/// Of the cuts, how many are of the server's disk.
const SERVER_SHARE: f64 = 0.15;

const DEVICE_MEGABYTES: u64 = 128;

const SERVER_MEGABYTES: u64 = 1024;

/// Cuts power `plan.count` times and checks the rules after every round.
pub async fn run(plan: &Plan) -> Result<Figures, Failure> {
    if let Err(why) = disk_image::available() {
        return skipped(plan, &why);
    }
    let devices = plan.devices.unwrap_or(DEVICES);
    // Declared first, so that they outlive the programs on them.
    let disks = Disks::new(devices).map_err(no_disk)?;
    let mut world = disks.world(plan).await?;
    let mut figures = Figures::default();
    let mut acknowledged = BTreeSet::new();
    let start = Instant::now();
    let mut left = plan.count;
    let mut summary = None;
    while left > 0 {
        let cuts = left.min(ROUND);
        left -= cuts;
        let begin = Instant::now();
        acknowledged.extend(round(&mut world, &disks, cuts, &mut figures).await?);
        figures.add("cutting, s", begin.elapsed().as_secs_f64());
        summary = Some(world.verify(&mut figures).await?);
        remembered(&world, &acknowledged).await?;
    }
    figures.count("orders remembered", acknowledged.len());
    figures.add("in all, s", start.elapsed().as_secs_f64());
    if let Some(summary) = summary {
        figures.judged(&summary);
    }
    Ok(figures)
}

/// Prints that the scenario was skipped; in CI that is a failure.
pub(super) fn skipped(plan: &Plan, why: &str) -> Result<Figures, Failure> {
    if std::env::var("CI").is_ok_and(|value| value == "true" || value == "1") {
        return Err(Failure::new(why));
    }
    plan.history.note(format_args!("SKIPPED: {why}"));
    let mut figures = Figures::default();
    figures.count(&format!("SKIPPED: {why}"), 1);
    Ok(figures)
}

struct Disks {
    server: DiskImage,
    devices: Vec<Arc<DiskImage>>,
}

impl Disks {
    fn new(devices: usize) -> io::Result<Self> {
        Ok(Self {
            server: DiskImage::new(SERVER_MEGABYTES)?,
            devices: (0..devices)
                .map(|_| DiskImage::new(DEVICE_MEGABYTES).map(Arc::new))
                .collect::<io::Result<_>>()?,
        })
    }

    async fn world(&self, plan: &Plan) -> Result<World, Failure> {
        let devices = self.devices.iter().map(|disk| disk.path());
        World::on_disks(plan, self.server.path(), devices).await
    }
}

/// Cuts the power of one disk after another, while deployments flow; returns the orders that were
/// seen to succeed.
async fn round(
    world: &mut World,
    disks: &Disks,
    cuts: usize,
    figures: &mut Figures,
) -> Result<Vec<String>, Failure> {
    let agents = world.agents.len();
    let (shares, server_cuts) = world.traffic.decide(|rng| {
        let mut shares = vec![0; agents];
        let mut server_cuts = 0;
        for _ in 0..cuts {
            if rng.random_bool(SERVER_SHARE) {
                server_cuts += 1;
            } else {
                shares[rng.random_range(0..agents)] += 1;
            }
        }
        (shares, server_cuts)
    });
    let (traffic, history) = (world.traffic.clone(), world.plan.history.clone());
    let over = CancellationToken::new();
    let mut orders = JoinSet::new();
    orders.spawn(keep_ordering(traffic.clone(), over.clone()));
    let mut watching = JoinSet::new();
    watching.spawn(watch(
        RawDatabase::of(&world.server),
        std::mem::take(&mut world.closings),
        over.clone(),
    ));
    let mut cutting = JoinSet::new();
    for ((agent, disk), share) in world.agents.drain(..).zip(&disks.devices).zip(shares) {
        let disk = Arc::clone(disk);
        cutting.spawn(cut_agent(
            agent,
            disk,
            share,
            traffic.clone(),
            history.clone(),
        ));
    }
    let server = &mut world.server;
    cut_server(server, &disks.server, server_cuts, &traffic, &history).await?;
    while let Some(agent) = cutting.join_next().await {
        world.agents.push(agent.map_err(broken)??);
    }
    world.agents.sort_by(|a, b| a.name.cmp(&b.name));
    over.cancel();
    let mut seen = Vec::new();
    while let Some(ids) = orders.join_next().await {
        seen.extend(ids.map_err(broken)?);
    }
    while let Some(closings) = watching.join_next().await {
        world.closings = closings.map_err(broken)?;
    }
    figures.count("deployments", seen.len());
    figures.count("cuts of devices", cuts - server_cuts);
    figures.count("cuts of the server", server_cuts);
    figures.count("cuts", cuts);
    Ok(seen)
}

async fn cut_agent(
    mut agent: TestAgent,
    disk: Arc<DiskImage>,
    cuts: usize,
    traffic: Traffic,
    history: History,
) -> Result<TestAgent, Failure> {
    for _ in 0..cuts {
        // Usually long enough for work to be in flight; sometimes only for a part of the start.
        let millis = traffic.decide(|rng| match rng.random_ratio(1, 5) {
            true => rng.random_range(0..200),
            false => rng.random_range(200..1800),
        });
        sleep(Duration::from_millis(millis)).await;
        block_in_place(|| cut(&disk, || agent.kill()))?;
        history.note(format_args!("cut {} after {millis} ms", agent.name));
        agent.start_again();
    }
    Ok(agent)
}

async fn cut_server(
    server: &mut TestServer,
    disk: &DiskImage,
    cuts: usize,
    traffic: &Traffic,
    history: &History,
) -> Result<(), Failure> {
    for _ in 0..cuts {
        let starting = traffic.decide(|rng| rng.random_ratio(1, 5));
        let millis = if starting {
            traffic.decide(|rng| rng.random_range(0..300))
        } else {
            server.answers().await;
            traffic.decide(|rng| rng.random_range(50..1500))
        };
        sleep(Duration::from_millis(millis)).await;
        block_in_place(|| cut(disk, || server.kill()))?;
        history.note(format_args!("cut the server after {millis} ms"));
        server.spawn_again();
    }
    server.answers().await;
    Ok(())
}

/// The disk stops first, as in a real power cut. Its programs see errors for a moment and must not
/// act on them.
fn cut(disk: &DiskImage, kill: impl FnOnce()) -> Result<(), Failure> {
    disk.cut_power().map_err(no_disk)?;
    kill();
    disk.restore_power().map_err(no_disk)
}

/// Deploys until it is stopped; returns the deployments that the server acknowledged.
async fn keep_ordering(traffic: Traffic, over: CancellationToken) -> Vec<String> {
    let mut acknowledged = Vec::new();
    while !over.is_cancelled() {
        acknowledged.extend(traffic.deploy().await);
        let millis = traffic.decide(|rng| rng.random_range(20..250));
        sleep(Duration::from_millis(millis)).await;
    }
    acknowledged
}

/// Checks that every acknowledged order has its targets.
pub(super) async fn remembered(
    world: &World,
    acknowledged: &BTreeSet<String>,
) -> Result<(), Failure> {
    let tables = RawDatabase::of(&world.server).tables().await;
    let tables = tables.map_err(|error| Failure::new(format!("no rows: {error}")))?;
    let there: BTreeSet<String> = tables
        .targets
        .into_iter()
        .map(|target| target.deployment)
        .collect();
    let lost: Vec<&String> = acknowledged
        .iter()
        .filter(|id| !there.contains(&id.replace('-', "")))
        .collect();
    if lost.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!(
        "orders that were acknowledged are lost: {lost:?}"
    )))
}

pub(super) fn no_disk(error: io::Error) -> Failure {
    Failure::new(format!("a disk of the harness failed: {error}"))
}
