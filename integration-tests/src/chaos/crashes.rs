//! Every crash point of both programs (`docs/crash-points.md`), each `--count` times: the program
//! is armed, brought to the point, has to die there, and starts again, armed with the next. A point
//! that is never passed is a failure.
//!
//! Agents and servers die in worlds of their own, so that each point is passed by what it is about;
//! both dying at once is for `kills`. What happens once in the life of a machine is taken by
//! `apart.rs`.

use std::{
    collections::{BTreeSet, VecDeque},
    convert::Infallible,
    os::unix::process::ExitStatusExt as _,
    process::ExitStatus,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use kernex_proto::crash::VARIABLE;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use rustix::process::Signal;
use tokio::{task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{
    Failure, Figures, Plan, World,
    kills::{broken, watch},
    power::remembered,
    rows::RawDatabase,
};
use crate::{
    TestAgent,
    wait::{seen, wait_for},
};

mod apart;
mod points;
mod provoke;

use points::{ArmedPoint, Program, Trigger};
use provoke::{Newcomer, Provoker};

const AGENTS: usize = 6;

/// Devices of a world whose server dies.
const FEW_AGENTS: usize = 3;

/// Most worlds whose servers die, at once.
const WORLDS: usize = 3;

/// Crash points of a server before each check of the rules.
const ROUND: usize = 60;

/// A point that is not passed by then counts as never passed.
const LIMIT: Duration = Duration::from_secs(240);

const BETWEEN_GLANCES: Duration = Duration::from_millis(10);

/// Pause between two triggers of the same point. Each deployment supersedes the one before where
/// that has not begun, so on a busy machine none would ever begin if they came faster.
const PAUSE: Duration = Duration::from_secs(5);

/// Crashes at every point `plan.count` times.
pub async fn run(plan: &Plan) -> Result<Figures, Failure> {
    let start = Instant::now();
    let mut rng = StdRng::seed_from_u64(plan.seed);
    let mut arm_all = |program| {
        let mut armed_points: Vec<ArmedPoint> = points::of(program)
            .into_iter()
            .flat_map(|point| (0..plan.count).map(move |time| (point, time)))
            .map(|(point, time)| point.arm(time, &mut rng))
            .collect();
        armed_points.shuffle(&mut rng);
        let (apart, common): (Vec<_>, Vec<_>) = armed_points
            .into_iter()
            .partition(|armed| armed.trigger == Trigger::Apart);
        (apart, common)
    };
    let (mut rare, agents) = arm_all(Program::Agent);
    let (more_rare, servers) = arm_all(Program::Server);
    rare.extend(more_rare);

    let mut running = JoinSet::new();
    let worlds = plan.count.clamp(1, WORLDS);
    for (number, share) in servers.chunks(servers.len().div_ceil(worlds)).enumerate() {
        let (plan, share) = (in_world(plan, &format!("server-{number}")), share.to_vec());
        running.spawn(async move { kill_servers(&plan, share).await });
    }
    let agents_plan = in_world(plan, "agents");
    running.spawn(async move { kill_agents(&agents_plan, agents).await });
    let apart_plan = in_world(plan, "apart");
    running.spawn(async move { apart::take(&apart_plan, rare).await });
    let mut figures = Figures::default();
    while let Some(part) = running.join_next().await {
        figures.merge(&part.map_err(broken)??);
    }
    figures.count(
        "points",
        points::of(Program::Agent).len() + points::of(Program::Server).len(),
    );
    let seconds = start.elapsed().as_secs_f64();
    figures.add("crashes a second", figures.get("crashes") / seconds);
    Ok(figures)
}

fn in_world(plan: &Plan, name: &str) -> Plan {
    Plan {
        history: plan.history.of_world(name),
        ..plan.clone()
    }
}

async fn kill_agents(plan: &Plan, armed_points: Vec<ArmedPoint>) -> Result<Figures, Failure> {
    let mut figures = Figures::default();
    let mut world = World::start(plan, plan.devices.unwrap_or(AGENTS)).await?;
    figures.count("crashes", armed_points.len());
    figures.count("crashes of agents", armed_points.len());
    let queue = Arc::new(Mutex::new(VecDeque::from(armed_points)));
    let over = CancellationToken::new();
    let mut watching = JoinSet::new();
    watching.spawn(watch(
        RawDatabase::of(&world.server),
        std::mem::take(&mut world.closings),
        over.clone(),
    ));
    let mut dying = JoinSet::new();
    for agent in world.agents.drain(..) {
        let provoker = Provoker::new(world.traffic.clone(), &agent.name);
        dying.spawn(take_all(agent, provoker, Arc::clone(&queue), plan.clone()));
    }
    let mut missed = None;
    while let Some(agent) = dying.join_next().await {
        let (agent, taken) = agent.map_err(broken)?;
        world.agents.push(agent);
        missed = missed.or_else(|| taken.err());
    }
    world.agents.sort_by(|a, b| a.name.cmp(&b.name));
    over.cancel();
    while let Some(closings) = watching.join_next().await {
        world.closings = closings.map_err(broken)?;
    }
    if let Some(failure) = missed {
        return Err(failure);
    }
    let summary = world.verify(&mut figures).await?;
    figures.judged(&summary);
    Ok(figures)
}

async fn take_all(
    mut agent: TestAgent,
    provoker: Provoker,
    queue: Arc<Mutex<VecDeque<ArmedPoint>>>,
    plan: Plan,
) -> (TestAgent, Result<(), Failure>) {
    // Each point goes to one agent; what happens to the others does not matter.
    let next = || queue.lock().pop_front();
    while let Some(armed) = next() {
        let start = Instant::now();
        let taken = take_agent(&mut agent, &armed, &provoker).await;
        plan.history.note(format_args!(
            "{} {armed}: {:.1?}",
            agent.name,
            start.elapsed()
        ));
        if let Err(failure) = taken {
            agent.kill();
            agent.start_again();
            return (agent, Err(failure));
        }
    }
    agent.start_again();
    (agent, Ok(()))
}

async fn take_agent(
    agent: &mut TestAgent,
    armed: &ArmedPoint,
    provoker: &Provoker,
) -> Result<(), Failure> {
    let setting = armed.setting();
    let end = tokio::time::Instant::now() + LIMIT;
    let mut provoking = Box::pin(provoke(provoker, armed.trigger));
    agent.kill();
    loop {
        agent.start_again_with(Some((VARIABLE, &setting)));
        let status = tokio::select! {
            status = ended(agent) => status,
            never = &mut provoking => match never {},
            () = tokio::time::sleep_until(end) => {
                let what = format!("{armed} was never passed by {}", agent.name);
                return Err(Failure::new(what).with_dump(agent.process().tail()));
            }
        };
        if was_killed(status) {
            return Ok(());
        }
        // An agent may exit because a script asked for a restart. Any other exit is a fault.
        if !status.success() && status.signal() != Some(Signal::TERM.as_raw()) {
            let what = format!("{} ended with {status} on the way to {armed}", agent.name);
            return Err(Failure::new(what).with_dump(agent.process().tail()));
        }
    }
}

async fn provoke(provoker: &Provoker, trigger: Trigger) -> Infallible {
    loop {
        provoker.once(trigger).await;
        sleep(PAUSE).await;
    }
}

async fn ended(agent: &mut TestAgent) -> ExitStatus {
    loop {
        if let Some(status) = agent.ended() {
            return status;
        }
        sleep(BETWEEN_GLANCES).await;
    }
}

fn was_killed(status: ExitStatus) -> bool {
    status.signal() == Some(Signal::KILL.as_raw())
}

async fn kill_servers(plan: &Plan, armed_points: Vec<ArmedPoint>) -> Result<Figures, Failure> {
    let mut figures = Figures::default();
    let mut world = World::start(plan, FEW_AGENTS).await?;
    let newcomer = Newcomer::of(&world.server).await;
    let mut acknowledged = BTreeSet::new();
    let mut summary = None;
    for round in armed_points.chunks(ROUND) {
        acknowledged.extend(round_of_servers(&mut world, &newcomer, round).await?);
        figures.count("crashes", round.len());
        figures.count("crashes of the server", round.len());
        summary = Some(world.verify(&mut figures).await?);
        remembered(&world, &acknowledged).await?;
    }
    figures.count("orders remembered", acknowledged.len());
    if let Some(summary) = summary {
        figures.judged(&summary);
    }
    Ok(figures)
}

/// Takes points one after another; returns the orders that were seen to succeed.
async fn round_of_servers(
    world: &mut World,
    newcomer: &Newcomer,
    armed_points: &[ArmedPoint],
) -> Result<Vec<String>, Failure> {
    let over = CancellationToken::new();
    let mut watching = JoinSet::new();
    watching.spawn(watch(
        RawDatabase::of(&world.server),
        std::mem::take(&mut world.closings),
        over.clone(),
    ));
    let mut provoking = JoinSet::new();
    let mut missed = None;
    for armed in armed_points {
        let start = Instant::now();
        let done = CancellationToken::new();
        let device = world.agents[world.traffic.decide(|rng| rng.random_range(0..FEW_AGENTS))]
            .name
            .clone();
        let provoker = Provoker::new(world.traffic.clone(), &device).with(newcomer);
        world.server.kill();
        world
            .server
            .spawn_again_with(Some((VARIABLE, &armed.setting())));
        // Calls in flight finish once the server is back, so these tasks end after it has died.
        provoking.spawn(keep_provoking(provoker, armed.trigger, done.clone()));
        let taken = take_server(world, armed).await;
        done.cancel();
        world
            .plan
            .history
            .note(format_args!("{armed}: {:.1?}", start.elapsed()));
        if let Err(failure) = taken {
            missed = Some(failure);
            break;
        }
    }
    world.server.kill();
    world.server.start_again().await;
    over.cancel();
    let mut acknowledged = Vec::new();
    while let Some(ids) = provoking.join_next().await {
        acknowledged.extend(ids.map_err(broken)?);
    }
    while let Some(closings) = watching.join_next().await {
        world.closings = closings.map_err(broken)?;
    }
    missed.map_or(Ok(acknowledged), Err)
}

async fn keep_provoking(
    provoker: Provoker,
    trigger: Trigger,
    done: CancellationToken,
) -> Vec<String> {
    let mut acknowledged = Vec::new();
    while !done.is_cancelled() {
        acknowledged.extend(provoker.once(trigger).await);
        tokio::select! {
            () = done.cancelled() => {}
            () = sleep(PAUSE) => {}
        }
    }
    acknowledged
}

async fn take_server(world: &mut World, armed: &ArmedPoint) -> Result<(), Failure> {
    let end = Instant::now() + LIMIT;
    if armed.trigger == Trigger::Drain {
        // The rows may still show sessions of the server before. Wait for one of this server.
        let said = world.server.process().said();
        world.server.answers().await;
        wait_for("a device to be back", || async {
            seen(world.server.process().has_said("session opened", said), ())
        })
        .await;
        world.server.signal(Signal::TERM);
    }
    loop {
        match world.server.ended() {
            Some(status) if was_killed(status) => return Ok(()),
            Some(status) => {
                let what = format!("the server ended with {status} on the way to {armed}");
                return Err(Failure::new(what).with_dump(world.server.process().tail()));
            }
            None if Instant::now() > end => {
                let what = format!("{armed} was never passed");
                return Err(Failure::new(what).with_dump(world.server.process().tail()));
            }
            None => sleep(BETWEEN_GLANCES).await,
        }
    }
}
