//! A world: one server with its devices, for faults and checks.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use kernex_proto::v1::DeviceStatus;
use tokio::{task::block_in_place, time::Instant};

use super::{
    Failure, Figures, Plan,
    checker::{AttemptKey, AttemptRow, ClosedState, Summary},
    evidence,
    rows::RawDatabase,
    traffic::Traffic,
    witness::Witness,
};
use crate::{AgentOptions, ServerOptions, TestAgent, TestServer};

mod judging;

/// Longest time to come to rest after the faults have ended.
const SETTLE_LIMIT: Duration = Duration::from_secs(120);

const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Default)]
pub struct WorldOptions {
    /// Settings of the control plane.
    pub server: ServerOptions,
}

/// A server, its devices, and what is known about them.
#[derive(Debug)]
pub struct World {
    /// The control plane.
    pub server: TestServer,
    pub agents: Vec<TestAgent>,
    /// Deploys to the devices.
    pub traffic: Traffic,
    /// The parameters of the scenario.
    pub plan: Plan,
    /// Every state that closed attempts were seen in.
    pub closings: ClosedAttempts,
    witnesses: BTreeMap<String, Witness>,
    /// Deployments that a restored server never heard of.
    forgotten: BTreeSet<String>,
}

/// The states that each closed attempt was ever seen in.
#[derive(Debug, Clone, Default)]
pub struct ClosedAttempts(BTreeMap<AttemptKey, Vec<ClosedState>>);

impl ClosedAttempts {
    /// Adds what the table shows now.
    pub fn observe(&mut self, attempts: &[AttemptRow]) {
        for attempt in attempts {
            if let Some(closing) = attempt.closing() {
                let seen = self.0.entry(attempt.key()).or_default();
                if seen.last() != Some(&closing) {
                    seen.push(closing);
                }
            }
        }
    }
}

impl World {
    /// A control plane with `devices` devices, all online.
    pub async fn start(plan: &Plan, devices: usize) -> Result<Self, Failure> {
        Self::start_with(plan, devices, WorldOptions::default()).await
    }

    /// The same, with options.
    pub async fn start_with(
        plan: &Plan,
        devices: usize,
        options: WorldOptions,
    ) -> Result<Self, Failure> {
        let mut world = Self::empty(plan, options).await;
        let folder = world.server.scratch().to_owned();
        for number in 1..=devices {
            let options = AgentOptions::named(&format!("edge-{number}"));
            world.enrol(&folder, options).await?;
        }
        world.online().await;
        Ok(world)
    }

    /// A control plane and devices, all online, with their state below these folders.
    pub async fn on_disks(
        plan: &Plan,
        server: &Path,
        devices: impl Iterator<Item = &Path>,
    ) -> Result<Self, Failure> {
        let options = WorldOptions {
            server: ServerOptions::default().data(server.join("data")),
        };
        let mut world = Self::empty(plan, options).await;
        let logs = world.server.scratch().to_owned();
        for (number, folder) in (1..).zip(devices) {
            // Numbered so that names sort.
            let options = AgentOptions::named(&format!("edge-{number:02}"));
            world
                .enrol(&logs, options.state(folder.join("state")))
                .await?;
        }
        world.online().await;
        Ok(world)
    }

    /// A control plane without devices.
    pub async fn empty(plan: &Plan, options: WorldOptions) -> Self {
        let server = TestServer::start_with(plan.database, options.server).await;
        let traffic = Traffic::new(server.operator(), plan.seed, plan.history.clone());
        Self {
            server,
            agents: Vec::new(),
            traffic,
            plan: plan.clone(),
            closings: ClosedAttempts::default(),
            witnesses: BTreeMap::new(),
            forgotten: BTreeSet::new(),
        }
    }

    /// Adds a device whose state goes below `folder`; its witness lies with the server's own files.
    pub async fn enrol(&mut self, folder: &Path, options: AgentOptions) -> Result<(), Failure> {
        let token = self.server.operator().enrollment_token(&[]).await;
        // A fleet is hurt every second here; minutes of waiting for the next try would only make
        // the run long.
        let options = options.env("KERNEX_AGENT_MAX_RECONNECT_SECONDS", "1");
        let url = options.url_or(&self.server.url());
        let key = self.server.new_key();
        // It may go through a proxy that runs here as well.
        let agent = block_in_place(|| TestAgent::enrol_at(folder, &url, &token, key, options));
        let path = self
            .server
            .scratch()
            .join(format!("witness-{}", agent.name));
        let witness = Witness::place(path, &agent.state)
            .map_err(|error| Failure::new(format!("no witness for {}: {error}", agent.name)))?;
        self.witnesses.insert(agent.name.clone(), witness);
        self.traffic.add_device(&agent.name);
        self.agents.push(agent);
        Ok(())
    }

    /// The witness of one device.
    ///
    /// # Panics
    /// When there is no such device.
    #[must_use]
    pub fn witness(&self, device: &str) -> &Witness {
        &self.witnesses[device]
    }

    /// Waits until every device is online.
    pub async fn online(&self) {
        let operator = self.server.operator();
        let names: Vec<String> = self.agents.iter().map(|agent| agent.name.clone()).collect();
        for name in names {
            operator.online(&name).await;
        }
    }

    /// The same, with all there is to see when it takes too long.
    pub async fn all_back(&mut self) -> Result<(), Failure> {
        let operator = self.server.operator();
        let end = Instant::now() + SETTLE_LIMIT;
        let names: Vec<String> = self.agents.iter().map(|agent| agent.name.clone()).collect();
        for name in names {
            loop {
                let device = operator.try_device(&name).await;
                if device
                    .as_ref()
                    .is_ok_and(|device| device.status() == DeviceStatus::Online)
                {
                    break;
                }
                if Instant::now() > end {
                    let what = format!("{name} is not back after {SETTLE_LIMIT:?}: {device:?}");
                    return Err(Failure::new(what).with_dump(self.dump()));
                }
                self.start_ended_agents();
                tokio::time::sleep(BETWEEN_LOOKS).await;
            }
        }
        Ok(())
    }

    /// A random bundle on some devices.
    pub async fn deploy(&self) -> Option<String> {
        self.traffic.deploy().await
    }

    /// Starts again whatever does not run. Faults of a scenario's own are lifted by the scenario.
    pub async fn heal(&mut self) {
        if self.server.has_ended() {
            self.server.start_again().await;
        }
        self.start_ended_agents();
        self.plan.history.note("healed");
    }

    /// What systemd does on a device: an agent that a script restarts comes back.
    fn start_ended_agents(&mut self) {
        for agent in &mut self.agents {
            if agent.has_ended() {
                agent.start_again();
            }
        }
    }

    /// Waits until every attempt is closed and resolved.
    pub async fn settle(&mut self) -> Result<Duration, Failure> {
        let start = Instant::now();
        let rows = RawDatabase::of(&self.server);
        loop {
            let attempts = rows.attempts().await.map_err(unreadable)?;
            self.closings.observe(&attempts);
            let open: Vec<&AttemptRow> = attempts
                .iter()
                .filter(|row| !row.is_closed() || row.unresolved)
                .collect();
            if open.is_empty() {
                return Ok(start.elapsed());
            }
            if start.elapsed() > SETTLE_LIMIT {
                let what = format!("{} attempts are open after {SETTLE_LIMIT:?}", open.len());
                let mut dump: Vec<String> = open.iter().map(|row| format!("{row:?}")).collect();
                dump.push(self.dump());
                return Err(Failure::new(what).with_dump(dump.join("\n")));
            }
            self.start_ended_agents();
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    }

    /// The server was restored from a backup. What it forgot is not judged, and attempts may close
    /// again that closed on the days between.
    pub fn forget(&mut self, deployments: Vec<String>) {
        let ids = deployments.into_iter().map(|id| id.replace('-', ""));
        self.forgotten.extend(ids);
        self.closings = ClosedAttempts::default();
    }

    /// Waits until the server takes each device to run what it runs.
    pub async fn known_again(&self) -> Result<(), Failure> {
        let end = Instant::now() + SETTLE_LIMIT;
        let rows = RawDatabase::of(&self.server);
        loop {
            let tables = rows.tables().await.map_err(unreadable)?;
            let unknown: Vec<String> = self
                .agents
                .iter()
                .filter_map(|agent| {
                    let runs: BTreeMap<String, String> = evidence::currents(&agent.state)
                        .into_iter()
                        .map(|current| (current.name, current.digest))
                        .collect();
                    let id = tables.devices.get(&agent.name);
                    let known = id.and_then(|id| tables.known.get(id)).cloned();
                    let known = known.unwrap_or_default();
                    let name = &agent.name;
                    (runs != known).then(|| format!("{name} runs {runs:?}, known is {known:?}"))
                })
                .collect();
            if unknown.is_empty() {
                return Ok(());
            }
            if Instant::now() > end {
                let what = format!("a restored server does not know what runs: {unknown:?}");
                return Err(Failure::new(what).with_dump(self.dump()));
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    }

    /// Ends faults, waits for rest and checks the rules; adds the counts to `figures`.
    pub async fn verify(&mut self, figures: &mut Figures) -> Result<Summary, Failure> {
        self.heal().await;
        self.all_back().await?;
        let took = self.settle().await?;
        figures.slowest("settling", took.as_secs_f64());
        let summary = self.check().await?;
        figures.count("checks", 1);
        Ok(summary)
    }

    /// The ends of all logs.
    #[must_use]
    pub fn dump(&self) -> String {
        let mut text = String::new();
        for agent in &self.agents {
            text += &agent.process().tail();
            text += "\n";
        }
        text + &self.server.process().tail()
    }
}

fn unreadable(error: sqlx::Error) -> Failure {
    Failure::new(format!("the database cannot be read: {error}"))
}
