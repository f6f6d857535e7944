//! Gathers what the checker needs from a world that has come to rest.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::{task::JoinSet, time::Instant};

use super::{BETWEEN_LOOKS, World, unreadable};
use crate::chaos::{
    Failure,
    checker::{self, JournalRow, SettledDevice, SettledWorld, Summary, TargetRow},
    evidence,
    rows::RawDatabase,
};

/// How long temporary things may stay before they count as left behind.
const TIDY_LIMIT: Duration = Duration::from_secs(60);

/// Sessions an agent gets to have its outcomes acknowledged before they count as lost.
const CHANCES: usize = 3;

impl World {
    /// Gathers the facts and holds the rules against them. The agents are stopped for it and
    /// started again.
    pub async fn check(&mut self) -> Result<Summary, Failure> {
        let facts = self.facts().await?;
        checker::check(&facts).map_err(|violations| {
            let about = self.about(&violations);
            Failure::from(violations).with_dump(format!("{about}\n{}", self.dump()))
        })
    }

    /// The facts as they are; stops the agents and starts them again.
    pub async fn facts(&mut self) -> Result<SettledWorld, Failure> {
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
        let tables = RawDatabase::of(&self.server)
            .tables()
            .await
            .map_err(unreadable)?;
        self.closings.observe(&tables.attempts);
        let mut devices = Vec::new();
        for agent in &self.agents {
            let name = agent.name.clone();
            let id = tables.devices.get(&name).cloned().unwrap_or_default();
            devices.push(SettledDevice {
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
        Ok(SettledWorld {
            bundles: self.traffic.bundles(),
            targets: tables.targets,
            attempts: tables.attempts,
            closings: self.closings.0.clone(),
            // Reports of forgotten attempts are kept aside, as they should be.
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

    /// Stops the agents and reads their journals. An agent whose last acknowledgement was still on
    /// its way gets another session, and another, before that counts.
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
}

/// Polls `look` until it finds nothing; returns what it still finds after a while.
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

fn resume<T>(error: tokio::task::JoinError) -> T {
    std::panic::resume_unwind(error.into_panic())
}
