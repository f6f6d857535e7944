//! One control plane with its devices, that can be hurt, healed and judged.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use kernex_proto::v1::DeviceStatus;
use tokio::{
    task::{JoinSet, block_in_place},
    time::Instant,
};

use super::{
    Failure, Figures, Plan,
    checker::{
        self, AttemptKey, AttemptRow, Closing, DeviceFacts, Facts, JournalRow, Summary, TargetRow,
    },
    evidence,
    rows::Rows,
    traffic::Traffic,
    witness::Witness,
};
use crate::{AgentOptions, ServerOptions, TestAgent, TestServer};

/// A healed world that has not come to rest after this never will.
const SETTLE_LIMIT: Duration = Duration::from_secs(120);

/// How long something may lie about that goes away by itself.
const TIDY_LIMIT: Duration = Duration::from_secs(10);

const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// Sessions an agent gets to have its outcomes acknowledged before they count as lost.
const CHANCES: usize = 3;

/// How a world is made.
#[derive(Debug, Clone, Default)]
pub struct WorldOptions {
    /// Settings of the control plane.
    pub server: ServerOptions,
}

/// A control plane, its devices, and what is known about them.
#[derive(Debug)]
pub struct World {
    /// The control plane.
    pub server: TestServer,
    /// The devices.
    pub agents: Vec<TestAgent>,
    /// Gives the fleet something to do.
    pub traffic: Traffic,
    /// What was planned.
    pub plan: Plan,
    /// What attempts were seen to close as.
    pub closings: Closings,
    witnesses: BTreeMap<String, Witness>,
    /// Deployments that a restored server never heard of.
    forgotten: BTreeSet<String>,
}

/// How closed attempts looked whenever somebody looked.
#[derive(Debug, Clone, Default)]
pub struct Closings(BTreeMap<AttemptKey, Vec<Closing>>);

impl Closings {
    /// Takes in what the table says now.
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

    /// A control plane without devices.
    pub async fn empty(plan: &Plan, options: WorldOptions) -> Self {
        let server = TestServer::start_with(plan.database, options.server).await;
        let traffic = Traffic::new(server.operator(), plan.seed, plan.history.clone());
        Self {
            server,
            agents: Vec::new(),
            traffic,
            plan: plan.clone(),
            closings: Closings::default(),
            witnesses: BTreeMap::new(),
            forgotten: BTreeSet::new(),
        }
    }

    /// Adds a device whose state goes below `folder`; its witness lies with the server's own files.
    pub async fn enrol(&mut self, folder: &Path, options: AgentOptions) -> Result<(), Failure> {
        let token = self.server.operator().enrollment_token(&[]).await;
        // A fleet is hurt every second here; minutes of waiting for the next try would only make the run long.
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
    pub async fn all_back(&self) -> Result<(), Failure> {
        let operator = self.server.operator();
        let end = Instant::now() + SETTLE_LIMIT;
        for agent in &self.agents {
            loop {
                let device = operator.try_device(&agent.name).await;
                if device
                    .as_ref()
                    .is_ok_and(|device| device.status() == DeviceStatus::Online)
                {
                    break;
                }
                if Instant::now() > end {
                    let what = format!(
                        "{} is not back after {SETTLE_LIMIT:?}: {device:?}",
                        agent.name
                    );
                    return Err(Failure::new(what).with_dump(self.dump()));
                }
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
        for agent in &mut self.agents {
            if agent.has_ended() {
                agent.start_again();
            }
        }
        self.plan.history.note("healed");
    }

    /// Waits until every attempt is closed and resolved.
    pub async fn settle(&mut self) -> Result<Duration, Failure> {
        let start = Instant::now();
        let rows = Rows::of(&self.server);
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
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    }

    /// The server is put back to an earlier day: what it forgot of is left out of the judgement, and attempts may close
    /// again that closed on the days between.
    pub fn forget(&mut self, deployments: Vec<String>) {
        let ids = deployments.into_iter().map(|id| id.replace('-', ""));
        self.forgotten.extend(ids);
        self.closings = Closings::default();
    }

    /// Gathers the facts and holds the rules against them. The agents are stopped for it and started again.
    pub async fn check(&mut self) -> Result<Summary, Failure> {
        let facts = self.facts().await?;
        checker::check(&facts).map_err(|violations| {
            let about = self.about(&violations);
            Failure::from(violations).with_dump(format!("{about}\n{}", self.dump()))
        })
    }

    /// Heals, settles and checks; counts what there was into `figures`.
    pub async fn verify(&mut self, figures: &mut Figures) -> Result<Summary, Failure> {
        self.heal().await;
        self.all_back().await?;
        let took = self.settle().await?;
        figures.slowest("settling", took.as_secs_f64());
        let summary = self.check().await?;
        figures.count("checks", 1);
        Ok(summary)
    }

    /// The facts as they are; stops the agents and starts them again.
    pub async fn facts(&mut self) -> Result<Facts, Failure> {
        let mut descriptors = BTreeMap::new();
        let mut processes = BTreeMap::new();
        let places = self.agents.iter().map(|agent| {
            (
                agent.name.clone(),
                agent.process().pid(),
                agent.state.clone(),
            )
        });
        for (name, pid, state) in places.collect::<Vec<_>>() {
            let open = gone_soon(|| evidence::descriptors(pid, &state)).await;
            descriptors.insert(name.clone(), open);
            let running = gone_soon(|| evidence::processes(&state)).await;
            processes.insert(name, running);
        }
        let journals = self.journals().await?;
        let tables = Rows::of(&self.server).tables().await.map_err(unreadable)?;
        self.closings.observe(&tables.attempts);
        let mut devices = Vec::new();
        for agent in &self.agents {
            let name = agent.name.clone();
            let id = tables.devices.get(&name).cloned().unwrap_or_default();
            devices.push(DeviceFacts {
                witness: self.remembered_lines(&name),
                journal: self.remembered_rows(&journals[&name], &tables.targets),
                currents: evidence::currents(&agent.state),
                known: tables.known.get(&id).cloned().unwrap_or_default(),
                processes: processes.remove(&name).unwrap_or_default(),
                temporary: evidence::temporary(&agent.state),
                descriptors: descriptors.remove(&name).unwrap_or_default(),
                id,
                name,
            });
        }
        for agent in &mut self.agents {
            agent.start_again();
        }
        Ok(Facts {
            bundles: self.traffic.bundles(),
            targets: tables.targets,
            attempts: tables.attempts,
            closings: self.closings.0.clone(),
            // Reports about what was forgotten are kept aside, as they should be.
            unknown_reports: if self.forgotten.is_empty() {
                tables.unknown_reports
            } else {
                0
            },
            sessions: evidence::sessions(&self.server.process().log()),
            devices,
            server_leftovers: evidence::server_leftovers(&self.server.data()),
        })
    }

    fn remembered_lines(&self, device: &str) -> Vec<String> {
        let mut lines = self.witnesses[device].lines();
        lines.retain(|line| {
            let deployment = line.split(' ').nth(1).unwrap_or_default();
            !self.forgotten.contains(&deployment.replace('-', ""))
        });
        lines
    }

    fn remembered_rows(&self, rows: &[JournalRow], targets: &[TargetRow]) -> Vec<JournalRow> {
        let known: BTreeSet<&str> = targets.iter().map(|target| target.id.as_str()).collect();
        let all = self.forgotten.is_empty();
        rows.iter()
            .filter(|row| all || known.contains(row.target.as_str()))
            .cloned()
            .collect()
    }

    /// Stops the agents and reads their journals. An agent whose last acknowledgement was still on its way gets
    /// another session, and another, before that counts.
    async fn journals(&mut self) -> Result<BTreeMap<String, Vec<checker::JournalRow>>, Failure> {
        let mut journals = BTreeMap::new();
        for chance in 1..=CHANCES {
            self.stop_agents().await;
            let mut waiting = false;
            for agent in &self.agents {
                let journal = evidence::journal(&agent.state).map_err(|error| {
                    Failure::new(format!("the journal of {}: {error}", agent.name))
                })?;
                waiting |= journal.iter().any(|row| !row.acknowledged);
                journals.insert(agent.name.clone(), journal);
            }
            if !waiting || chance == CHANCES {
                break;
            }
            self.plan.history.note("an outcome waits; another session");
            for agent in &mut self.agents {
                agent.start_again();
            }
            self.online().await;
        }
        Ok(journals)
    }

    async fn stop_agents(&mut self) {
        let mut stopping = JoinSet::new();
        for mut agent in self.agents.drain(..) {
            stopping.spawn_blocking(move || {
                agent.stop();
                agent
            });
        }
        while let Some(agent) = stopping.join_next().await {
            self.agents.push(agent.unwrap_or_else(resume));
        }
        self.agents.sort_by(|a, b| a.name.cmp(&b.name));
    }

    /// Lines of logs and witnesses that mention what a violation mentions.
    fn about(&self, violations: &[checker::Violation]) -> String {
        let mut text = String::new();
        let targets: std::collections::BTreeSet<String> = violations
            .iter()
            .flat_map(|violation| violation.detail.split(|c: char| !c.is_ascii_hexdigit()))
            .filter(|word| word.len() == 32)
            .filter_map(|word| uuid::Uuid::parse_str(word).ok())
            .map(|id| id.to_string())
            .take(6)
            .collect();
        let logs = self
            .agents
            .iter()
            .map(|agent| (agent.name.as_str(), agent.process().log()));
        let logs = logs.chain([("server", self.server.process().log())]);
        for (name, log) in logs {
            let lines = log.lines();
            for line in lines.filter(|line| targets.iter().any(|target| line.contains(target))) {
                text += &format!("{name}: {line}\n");
            }
        }
        text
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

/// What `look` still sees after a while; nothing as soon as it sees nothing.
async fn gone_soon(look: impl Fn() -> Vec<String>) -> Vec<String> {
    let end = Instant::now() + TIDY_LIMIT;
    loop {
        let seen = look();
        if seen.is_empty() || Instant::now() > end {
            return seen;
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

fn unreadable(error: sqlx::Error) -> Failure {
    Failure::new(format!("the database cannot be read: {error}"))
}

fn resume<T>(error: tokio::task::JoinError) -> T {
    std::panic::resume_unwind(error.into_panic())
}
