//! SIGKILL at random moments: agents seven times out of ten, the server the rest, in the middle of
//! whatever they do, their own start included.

use std::{fs, path::Path, time::Duration};

use rand::{RngExt as _, rngs::StdRng};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    Failure, Figures, History, Plan, World, rows::RawDatabase, traffic::Traffic, witness::Witness,
    world::ClosedAttempts,
};
use crate::{TestAgent, TestServer};

const DEVICES: usize = 8;

/// Kills before each check of the rules.
const ROUND: usize = 40;

/// Operators who deploy at once.
const OPERATORS: usize = 2;

/// Longest wait for an agent to begin some work.
const WORK_LIMIT: Duration = Duration::from_secs(2);

const BETWEEN_GLANCES: Duration = Duration::from_millis(4);

/// Interval between two looks at closed attempts.
const BETWEEN_LOOKS: Duration = Duration::from_millis(150);

/// Most worlds at once: one alone spends half of its time waiting for its server to come up.
const WORLDS: usize = 3;

/// Kills `plan.count` times and checks the rules after every round.
pub async fn run(plan: &Plan) -> Result<Figures, Failure> {
    let start = Instant::now();
    let worlds = (plan.count / ROUND).clamp(1, WORLDS);
    let mut running = JoinSet::new();
    for number in 0..worlds {
        let share = plan.count / worlds + usize::from(number < plan.count % worlds);
        let plan = Plan {
            seed: plan.seed.wrapping_add(number as u64),
            count: share,
            history: plan.history.of_world(number + 1),
            ..plan.clone()
        };
        running.spawn(async move { in_one_world(&plan).await });
    }
    let mut figures = Figures::default();
    while let Some(world) = running.join_next().await {
        figures.merge(&world.map_err(broken)??);
    }
    let seconds = start.elapsed().as_secs_f64();
    figures.add("kills a second", figures.get("kills") / seconds);
    Ok(figures)
}

async fn in_one_world(plan: &Plan) -> Result<Figures, Failure> {
    let mut figures = Figures::default();
    let mut world = World::start(plan, plan.devices.unwrap_or(DEVICES)).await?;
    let mut left = plan.count;
    let mut summary = None;
    while left > 0 {
        let kills = left.min(ROUND);
        left -= kills;
        round(&mut world, kills, &mut figures).await?;
        summary = Some(world.verify(&mut figures).await?);
    }
    if let Some(summary) = summary {
        figures.judged(&summary);
    }
    Ok(figures)
}

async fn round(world: &mut World, kills: usize, figures: &mut Figures) -> Result<(), Failure> {
    let agents = world.agents.len();
    let (shares, server_kills) = world.traffic.decide(|rng| {
        let mut shares = vec![0; agents];
        let mut server_kills = 0;
        for _ in 0..kills {
            if rng.random_bool(0.3) {
                server_kills += 1;
            } else {
                shares[rng.random_range(0..agents)] += 1;
            }
        }
        (shares, server_kills)
    });
    let (traffic, history) = (world.traffic.clone(), world.plan.history.clone());
    let over = CancellationToken::new();
    let mut orders = JoinSet::new();
    for _ in 0..OPERATORS {
        orders.spawn(keep_deploying(traffic.clone(), over.clone()));
    }
    let mut watching = JoinSet::new();
    watching.spawn(watch(
        RawDatabase::of(&world.server),
        std::mem::take(&mut world.closings),
        over.clone(),
    ));
    let mut killing = JoinSet::new();
    for (agent, share) in std::mem::take(&mut world.agents).into_iter().zip(shares) {
        let witness = world.witness(&agent.name).clone();
        killing.spawn(kill_agent(
            agent,
            share,
            witness,
            traffic.clone(),
            history.clone(),
        ));
    }
    kill_server(&mut world.server, server_kills, &traffic, &history).await;
    while let Some(agent) = killing.join_next().await {
        world.agents.push(agent.map_err(broken)?);
    }
    world.agents.sort_by(|a, b| a.name.cmp(&b.name));
    over.cancel();
    while let Some(deployed) = orders.join_next().await {
        figures.count("deployments", deployed.map_err(broken)?);
    }
    while let Some(closings) = watching.join_next().await {
        world.closings = closings.map_err(broken)?;
    }
    figures.count("kills of agents", kills - server_kills);
    figures.count("kills of the server", server_kills);
    figures.count("kills", kills);
    Ok(())
}

/// When a program is killed.
#[derive(Debug, Clone, Copy)]
enum KillTime {
    /// So many milliseconds from now.
    After(u64),
    /// So many milliseconds after it has begun to work on something; soon, if it does not.
    AtWork(u64),
}

impl KillTime {
    fn draw(rng: &mut StdRng) -> Self {
        match rng.random_range(0..8) {
            // While it starts.
            0..2 => Self::After(rng.random_range(0..120)),
            2..4 => Self::After(rng.random_range(120..1500)),
            _ => Self::AtWork(rng.random_range(0..150)),
        }
    }

    async fn come(self, state: &Path, witness: &Witness) {
        let millis = match self {
            Self::After(millis) => millis,
            Self::AtWork(millis) => {
                let end = Instant::now() + WORK_LIMIT;
                let (size, tmp) = (witness.size(), state.join("tmp"));
                let downloads = || fs::read_dir(&tmp).is_ok_and(|mut files| files.next().is_some());
                while witness.size() == size && !downloads() && Instant::now() < end {
                    sleep(BETWEEN_GLANCES).await;
                }
                millis
            }
        };
        sleep(Duration::from_millis(millis)).await;
    }
}

async fn kill_agent(
    mut agent: TestAgent,
    kills: usize,
    witness: Witness,
    traffic: Traffic,
    history: History,
) -> TestAgent {
    for _ in 0..kills {
        let moment = traffic.decide(KillTime::draw);
        moment.come(&agent.state, &witness).await;
        agent.kill();
        history.note(format_args!("killed {} at {moment:?}", agent.name));
        agent.start_again();
    }
    agent
}

async fn kill_server(server: &mut TestServer, kills: usize, traffic: &Traffic, history: &History) {
    for _ in 0..kills {
        let starting = traffic.decide(|rng| rng.random_ratio(1, 4));
        let millis = if starting {
            traffic.decide(|rng| rng.random_range(0..250))
        } else {
            server.answers().await;
            traffic.decide(|rng| rng.random_range(50..900))
        };
        sleep(Duration::from_millis(millis)).await;
        server.kill();
        history.note(format_args!("killed the server after {millis} ms"));
        server.spawn_again();
    }
    server.answers().await;
}

/// Deploys until it is stopped; returns how often.
pub(super) async fn keep_deploying(traffic: Traffic, over: CancellationToken) -> usize {
    let mut deployed = 0;
    while !over.is_cancelled() {
        deployed += usize::from(traffic.deploy().await.is_some());
        let millis = traffic.decide(|rng| rng.random_range(20..250));
        sleep(Duration::from_millis(millis)).await;
    }
    deployed
}

/// Looks at closed attempts until told to stop; a database that is away for a moment is looked at
/// again.
pub(super) async fn watch(
    rows: RawDatabase,
    mut closings: ClosedAttempts,
    over: CancellationToken,
) -> ClosedAttempts {
    while !over.is_cancelled() {
        if let Ok(attempts) = rows.attempts().await {
            closings.observe(&attempts);
        }
        sleep(BETWEEN_LOOKS).await;
    }
    closings
}

pub(super) fn broken(error: tokio::task::JoinError) -> Failure {
    std::panic::resume_unwind(error.into_panic())
}
