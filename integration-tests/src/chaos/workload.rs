//! Background load of a scenario: operators who deploy, and regular looks at closed attempts.

use std::time::Duration;

use rand::RngExt as _;
use tokio::{task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{
    Figures, World,
    kills::{broken, watch},
    rows::RawDatabase,
    traffic::Traffic,
    world::ClosedAttempts,
};
use crate::chaos::Failure;

/// Operators who deploy, until [`Workload::end`].
#[derive(Debug)]
pub struct Workload {
    over: CancellationToken,
    orders: JoinSet<usize>,
    watching: JoinSet<ClosedAttempts>,
}

impl Workload {
    /// Starts so many operators.
    pub fn begin(world: &mut World, operators: usize) -> Self {
        let over = CancellationToken::new();
        let mut orders = JoinSet::new();
        for _ in 0..operators {
            orders.spawn(keep_deploying(world.traffic.clone(), over.clone()));
        }
        let mut watching = JoinSet::new();
        watching.spawn(watch(
            RawDatabase::of(&world.server),
            std::mem::take(&mut world.closings),
            over.clone(),
        ));
        Self {
            over,
            orders,
            watching,
        }
    }

    /// Stops the operators once their last deployments are created.
    pub async fn end(mut self, world: &mut World, figures: &mut Figures) -> Result<(), Failure> {
        self.over.cancel();
        while let Some(deployed) = self.orders.join_next().await {
            figures.count("deployments", deployed.map_err(broken)?);
        }
        while let Some(closings) = self.watching.join_next().await {
            world.closings = closings.map_err(broken)?;
        }
        Ok(())
    }
}

async fn keep_deploying(traffic: Traffic, over: CancellationToken) -> usize {
    let mut deployed = 0;
    while !over.is_cancelled() {
        deployed += usize::from(traffic.deploy().await.is_some());
        let millis = traffic.decide(|rng| rng.random_range(50..400));
        sleep(Duration::from_millis(millis)).await;
    }
    deployed
}
