//! PostgreSQL stopped hard and started again under load. The server goes on: sessions stay, whoever
//! wants in is told when to come back, and once the database is there again nothing is missing.

use std::{collections::BTreeMap, time::Duration};

use rand::RngExt as _;
use tokio::{task::block_in_place, time::sleep};

use super::{Failure, Figures, Plan, World, WorldOptions, workload::Workload};
use crate::{ServerOptions, postgres::Postgres};

const DEVICES: usize = 6;

/// Outages before each check of the rules.
const ROUND: usize = 3;

/// Stops the database `plan.count` times and checks the rules after every round.
pub async fn run(plan: &Plan) -> Result<Figures, Failure> {
    let Some(mut postgres) = block_in_place(Postgres::private) else {
        return super::power::skipped(plan, "PostgreSQL is not installed here");
    };
    let options = WorldOptions {
        server: ServerOptions::default().database(postgres.fresh_url().await),
    };
    let mut world = World::start_with(plan, plan.devices.unwrap_or(DEVICES), options).await?;
    let mut figures = Figures::default();
    let mut left = plan.count;
    let mut summary = None;
    while left > 0 {
        let outages = left.min(ROUND);
        left -= outages;
        let load = Workload::begin(&mut world, 2);
        for _ in 0..outages {
            outage(&mut world, &mut postgres, &mut figures).await?;
        }
        load.end(&mut world, &mut figures).await?;
        summary = Some(world.verify(&mut figures).await?);
    }
    if let Some(summary) = summary {
        figures.judged(&summary);
    }
    Ok(figures)
}

async fn outage(
    world: &mut World,
    postgres: &mut Postgres,
    figures: &mut Figures,
) -> Result<(), Failure> {
    let (before, lasts, restarted) = world.traffic.decide(|rng| {
        (
            rng.random_range(200..2500),
            // Usually shorter than a lease; sometimes longer than the grace that sessions get
            // beyond it.
            match rng.random_range(0..8) {
                0 => rng.random_range(60_000..80_000),
                1..3 => rng.random_range(10_000..25_000),
                _ => rng.random_range(200..5_000),
            },
            rng.random_range(0..world.agents.len()),
        )
    });
    sleep(Duration::from_millis(before)).await;
    // The check has started the agents again.
    world.all_back().await?;
    let epochs = epochs(world).await;
    block_in_place(|| postgres.stop_hard());
    world
        .plan
        .history
        .note(format_args!("PostgreSQL is away for {lasts} ms"));
    // One device connects while the database is away.
    let agent = &mut world.agents[restarted];
    agent.kill();
    agent.start_again();
    let newcomer = agent.name.clone();
    sleep(Duration::from_millis(lasts)).await;
    block_in_place(|| postgres.start_again());
    world.plan.history.note("PostgreSQL is back");
    world.all_back().await?;
    for (name, epoch) in self::epochs(world).await {
        if name != newcomer && epochs.get(&name) != Some(&epoch) {
            return Err(Failure::new(format!(
                "the session of {name} did not outlive {lasts} ms without the database: \
                 it was {:?} and is {epoch}",
                epochs.get(&name)
            ))
            .with_dump(world.dump()));
        }
    }
    figures.count("outages", 1);
    figures.add("away, s", Duration::from_millis(lasts).as_secs_f64());
    if world.server.has_ended() {
        return Err(Failure::new("the server ended with its database").with_dump(world.dump()));
    }
    Ok(())
}

async fn epochs(world: &World) -> BTreeMap<String, u64> {
    let operator = world.server.operator();
    let mut epochs = BTreeMap::new();
    for agent in &world.agents {
        let device = operator.device(&agent.name).await;
        epochs.insert(agent.name.clone(), device.epoch);
    }
    epochs
}
