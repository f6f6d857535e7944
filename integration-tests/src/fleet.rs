//! A fleet of light agents in one process: each has a connection, a TLS session and a source
//! address of its own and speaks the real protocol, but keeps its journal in memory and runs
//! nothing.
//!
//! What makes ten thousand of them cheap: one task each, `h2` without a client stack above it, and
//! a handful of RSA keys shared by all ([`Roster`] says how devices share a key). Descriptors bound
//! a fleet: see [`room`].

mod agent;
mod behaviour;
mod counters;
mod heartbeats;
mod journal;
mod roster;
mod wire;

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::JoinSet,
};

use self::{agent::Agent, behaviour::Behaviour};
pub use self::{
    agent::Received,
    behaviour::{Backoff, DeployBehaviour, HeartbeatPace, Options},
    counters::{CounterSnapshot, Counters, Latencies},
    roster::{Identity, LABEL, Pool, Roster},
    wire::{Calls, Connector, Receiver, Sender, Windows, Wire, WireError},
};
use crate::wait::{seen, wait_for_within};

/// Descriptors a process needs for itself.
const OWN_DESCRIPTORS: u64 = 200;

/// How many connections this process has room for. Raises the soft limit on descriptors to the hard
/// one first, which is what bounds it; a child started afterwards inherits that.
pub fn room() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // Without the right to raise it the limit stays.
    let _ = setrlimit(Resource::Nofile, raised);
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(limit.saturating_sub(OWN_DESCRIPTORS)).unwrap_or(usize::MAX)
}

/// Running light agents. Dropping it cuts their connections without a goodbye.
#[derive(Debug)]
pub struct Fleet {
    agents: usize,
    counters: Arc<Counters>,
    orders: watch::Sender<Behaviour>,
    _tasks: JoinSet<()>,
}

impl Fleet {
    /// Starts every agent of a roster. Must run within a tokio runtime.
    ///
    /// # Errors
    /// When this process has no descriptors for so many.
    pub fn start(connector: Connector, roster: &Roster, options: Options) -> io::Result<Self> {
        Self::start_watched(connector, roster, options, None)
    }

    /// [`Self::start`], and every command that arrives is sent to `received` with the moment of its
    /// arrival.
    ///
    /// # Errors
    /// When this process has no descriptors for so many.
    pub fn start_watched(
        connector: Connector,
        roster: &Roster,
        options: Options,
        received: Option<mpsc::UnboundedSender<Received>>,
    ) -> io::Result<Self> {
        let (agents, room) = (roster.identities.len(), room());
        if agents > room {
            return Err(io::Error::other(format!(
                "{agents} agents need as many descriptors and this process may open {room}; \
                 raise the hard limit (ulimit -Hn)"
            )));
        }
        let counters = Arc::<Counters>::default();
        let orders = watch::Sender::new(Behaviour::new(&options));
        let openings = Arc::new(Semaphore::new(options.openings));
        let mut tasks = JoinSet::new();
        for (number, identity) in roster.identities.iter().enumerate() {
            let agent = Agent {
                number,
                identity: identity.clone(),
                pool: Arc::clone(&roster.pool),
                connector: connector.clone(),
                options: options.clone(),
                openings: Arc::clone(&openings),
                counters: Arc::clone(&counters),
                orders: orders.subscribe(),
                received: received.clone(),
            };
            tasks.spawn(agent.run());
        }
        Ok(Self {
            agents,
            counters,
            orders,
            _tasks: tasks,
        })
    }

    /// How many agents there are.
    #[must_use]
    pub fn agents(&self) -> usize {
        self.agents
    }

    /// The counts so far.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Waits until every agent holds an open session; returns how long that took.
    ///
    /// # Panics
    /// When they do not within the limit.
    pub async fn all_online(&self, limit: Duration) -> Duration {
        let start = Instant::now();
        wait_for_within(limit, "every light agent to hold a session", || async {
            let tally = self.counters.tally();
            seen(tally.online == self.agents as u64, tally)
        })
        .await;
        start.elapsed()
    }

    /// Drops every connection without a word, all at once; each agent comes back as its backoff
    /// says.
    pub fn cut(&self) {
        self.orders.send_modify(|orders| orders.cuts += 1);
    }

    /// Changes how often heartbeats are sent.
    pub fn pace(&self, pace: HeartbeatPace) {
        self.orders.send_modify(|orders| orders.pace = pace);
    }

    /// Changes what is done with deploys that arrive from now on.
    pub fn deploys(&self, deploys: DeployBehaviour) {
        self.orders.send_modify(|orders| orders.deploys = deploys);
    }
}
