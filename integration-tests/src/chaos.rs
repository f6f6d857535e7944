//! Faults on purpose: real servers and agents under kills, cuts, full disks and power loss, and a
//! judge over what is left.
//!
//! A scenario is a module with `pub async fn run(plan: &Plan) -> Result<Figures, Failure>` and one
//! line in [`SCENARIOS`]. It starts a [`World`], does its worst, heals it, lets it settle and has
//! it checked:
//!
//! ```text
//! let mut world = World::start(plan, 8).await?;
//! ...faults, while `world.deploy()` gives the fleet something to do...
//! world.verify().await?;      // heal, settle, check
//! ```
//!
//! What scripts did is told by the scripts themselves ([`witness`]), not by the agents; what was
//! done is kept in a [`History`]; [`checker`] holds both against the database, the journals and the
//! release folders. It is pure, and tested with histories broken by hand.

use std::{future::Future, pin::Pin};

pub mod args;
pub mod checker;
pub mod clones;
pub mod command;
pub mod crashes;
pub mod disks;
pub mod evidence;
pub mod history;
pub mod hostile;
pub mod kills;
pub mod network;
pub mod postgres;
pub mod power;
pub mod report;
pub mod rows;
pub mod storm;
pub mod traffic;
pub mod witness;
pub mod workload;
pub mod world;

pub use history::History;
pub use report::{Failure, Figures};
pub use world::{World, WorldOptions};

use crate::Database;

/// Parameters of one run of a scenario.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Decides every choice of the harness. What the machines make of it is not decided.
    pub seed: u64,
    /// Number of faults.
    pub count: usize,
    /// Where the control plane keeps its rows.
    pub database: Database,
    /// Devices to do it to; `None` is the scenario's own choice.
    pub devices: Option<usize>,
    /// Only the parts of the scenario whose names contain this; `None` is all of them.
    pub only: Option<String>,
    /// What is done, shown when it fails.
    pub history: History,
}

impl Plan {
    /// A plan with an empty history.
    #[must_use]
    pub fn new(seed: u64, count: usize, database: Database) -> Self {
        Self {
            seed,
            count,
            database,
            devices: None,
            only: None,
            history: History::default(),
        }
    }
}

type Running<'a> = Pin<Box<dyn Future<Output = Result<Figures, Failure>> + Send + 'a>>;

/// A kind of fault.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// Name on the command line.
    pub name: &'static str,
    /// One line for `list`.
    pub about: &'static str,
    /// Faults in CI, on each of its databases.
    pub ci: usize,
    /// Databases it makes sense on.
    pub databases: &'static [Database],
    pub run: for<'a> fn(&'a Plan) -> Running<'a>,
}

impl std::fmt::Debug for Scenario {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scenario")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Both databases.
pub const BOTH: &[Database] = &[Database::Sqlite, Database::Postgres];

/// Every scenario there is; those that take long come first, so that no long one is left alone at
/// the end.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "postgres",
        about: "PostgreSQL stopped hard and started again under load",
        ci: 3,
        databases: &[Database::Postgres],
        run: |plan| Box::pin(postgres::run(plan)),
    },
    Scenario {
        name: "crashes",
        about: "every crash point of both programs, each as often as `--count` says",
        ci: 1,
        databases: BOTH,
        run: |plan| Box::pin(crashes::run(plan)),
    },
    Scenario {
        name: "hostile",
        about: "attacks by strangers, a viewer, an operator and a device; each lasts a fifth of \
                `--count` seconds four times, and then all of them without a break",
        ci: 1,
        databases: BOTH,
        run: |plan| Box::pin(hostile::run(plan)),
    },
    Scenario {
        name: "kills",
        about: "SIGKILL of agents and the server at random moments, while deployments flow",
        ci: 200,
        databases: BOTH,
        run: |plan| Box::pin(kills::run(plan)),
    },
    Scenario {
        name: "disks",
        about: "full disks and exhausted descriptors, of devices and the server",
        ci: 30,
        databases: &[Database::Sqlite],
        run: |plan| Box::pin(disks::run(plan)),
    },
    Scenario {
        name: "network",
        about: "networks that are cut, half-open, stalled or slow, and tear or garble any message",
        ci: 100,
        databases: BOTH,
        run: |plan| Box::pin(network::run(plan)),
    },
    Scenario {
        name: "storm",
        about: "a whole fleet of light agents cut off at once, in the middle of a deployment to \
                all of it",
        ci: 500,
        databases: &[Database::Sqlite],
        run: |plan| Box::pin(storm::run(plan)),
    },
    Scenario {
        name: "clones",
        about: "a copied disk, clocks that jump a year either way, a server restored from an older \
                backup",
        // The second fault meets a world that the first one restored.
        ci: 2,
        databases: BOTH,
        run: |plan| Box::pin(clones::run(plan)),
    },
    Scenario {
        name: "power",
        about: "power cuts of the devices' disks and the server's, which lose what was not synced",
        ci: 50,
        databases: &[Database::Sqlite],
        run: |plan| Box::pin(power::run(plan)),
    },
];
