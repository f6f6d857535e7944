//! The rules, checked over what is left when a world has settled. Pure: no disk, no database, no
//! clock.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::witness::{BundleContents, Entry};

mod releases;
mod rules;
#[cfg(test)]
mod tests;

/// Final states.
pub const CLOSED: [&str; 5] = ["succeeded", "failed", "cancelled", "expired", "superseded"];

/// Everything the rules look at. Ids are hex without dashes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SettledWorld {
    /// Bundles that were made, by digest.
    pub bundles: BTreeMap<String, BundleContents>,
    /// The table of targets.
    pub targets: Vec<TargetRow>,
    /// The table of attempts.
    pub attempts: Vec<AttemptRow>,
    /// Different rows that one closed attempt was ever seen with, in order; one each when all is
    /// well.
    pub closings: BTreeMap<AttemptKey, Vec<ClosedState>>,
    /// Reports the server kept aside because it knew no such attempt.
    pub unknown_reports: usize,
    /// Device id and epoch of every session that was opened, as often as it was.
    pub sessions: Vec<(String, u64)>,
    /// What each device shows.
    pub devices: Vec<SettledDevice>,
    /// Temporary files and the like on the server's side.
    pub server_leftovers: Vec<String>,
}

pub type AttemptKey = (String, u32);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TargetRow {
    pub id: String,
    pub deployment: String,
    pub device: String,
    /// Digest of its bundle.
    pub digest: String,
    /// Number of its latest attempt.
    pub latest_attempt: u32,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttemptRow {
    pub target: String,
    pub number: u32,
    /// State, as in the table.
    pub state: String,
    pub reason: Option<String>,
    /// The agent may still hold it.
    pub unresolved: bool,
    /// The agent's outcome is in.
    pub answered: bool,
    /// Microseconds.
    pub closed_at: Option<i64>,
    /// Outcome that came after it closed.
    pub late_state: Option<String>,
    pub late_reason: Option<String>,
}

impl AttemptRow {
    #[must_use]
    pub fn key(&self) -> AttemptKey {
        (self.target.clone(), self.number)
    }

    /// Whether its state is final.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        CLOSED.contains(&self.state.as_str())
    }

    /// What may never change again, once it is closed.
    #[must_use]
    pub fn closing(&self) -> Option<ClosedState> {
        self.is_closed().then(|| ClosedState {
            state: self.state.clone(),
            reason: self.reason.clone(),
            closed_at: self.closed_at,
        })
    }
}

/// The final state of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClosedState {
    pub state: String,
    pub reason: Option<String>,
    /// Microseconds.
    pub closed_at: Option<i64>,
}

/// What is left on one device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SettledDevice {
    pub id: String,
    pub name: String,
    /// Lines of its witness.
    pub witness: Vec<String>,
    /// Its journal, read while the agent was stopped.
    pub journal: Vec<JournalRow>,
    /// What `current` of each bundle name leads to.
    pub currents: Vec<Current>,
    /// Bundle name and digest that the server takes it to run.
    pub known: BTreeMap<String, String>,
    /// Processes of scripts that are still there.
    pub processes: Vec<String>,
    pub temporary: Vec<String>,
    /// Descriptors the agent holds and should not.
    pub descriptors: Vec<String>,
}

/// One attempt as the agent remembers it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JournalRow {
    pub target: String,
    pub number: u32,
    /// It is a tombstone: the outcome was acknowledged.
    pub acknowledged: bool,
    /// State and reason it ended with.
    pub outcome: Option<(String, Option<String>)>,
}

/// The release that is current under one name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Current {
    pub name: String,
    /// Digest it was unpacked from, as its description says; empty when there is none.
    pub digest: String,
    /// What lies in it, but for folders; `None` when the link leads nowhere.
    pub entries: Option<BTreeMap<String, Entry>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// Every target's attempts are closed and resolved.
    Terminal,
    /// Each step started at most once per attempt and run.
    OnceOnly,
    /// Scripts ran only for attempts that exist, with the bundle that was ordered.
    NothingInvented,
    /// What succeeded has one complete line of each step.
    SucceededIsTrue,
    /// What the agent ended with is what the table says, once.
    OutcomeRecorded,
    /// A closed attempt stays as it closed.
    ClosedForGood,
    /// No outcome waits on a device.
    Acknowledged,
    /// No epoch of a device was given twice.
    OneSession,
    /// `current` holds every entry of its bundle unchanged.
    CurrentComplete,
    /// The server knows what is current.
    CurrentKnown,
    /// No process, temporary file or descriptor is left.
    NothingLeft,
}

/// A broken rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub rule: Rule,
    /// Where and how it was broken.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.detail)
    }
}

/// Counts of a check that passed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    pub targets: usize,
    /// Attempts by how they ended: `failed(interrupted)`, say.
    pub endings: BTreeMap<String, usize>,
    /// Outcomes that came after their attempt had closed.
    pub late: usize,
    /// Lines of all witnesses.
    pub witness_lines: usize,
    /// Outcomes in all journals.
    pub journalled: usize,
    pub sessions: usize,
    /// Releases compared entry by entry.
    pub releases: usize,
}

/// Collects violations.
#[derive(Debug, Default)]
struct Findings(Vec<Violation>);

impl Findings {
    fn add(&mut self, rule: Rule, detail: impl Into<String>) {
        self.0.push(Violation {
            rule,
            detail: detail.into(),
        });
    }
}

/// Checks every rule.
pub fn check(facts: &SettledWorld) -> Result<Summary, Vec<Violation>> {
    let mut findings = Findings::default();
    rules::terminal(facts, &mut findings);
    rules::witnesses(facts, &mut findings);
    rules::journals(facts, &mut findings);
    rules::closed(facts, &mut findings);
    rules::sessions(facts, &mut findings);
    releases::current(facts, &mut findings);
    releases::nothing_left(facts, &mut findings);
    if findings.0.is_empty() {
        Ok(summary(facts))
    } else {
        Err(findings.0)
    }
}

fn summary(facts: &SettledWorld) -> Summary {
    let mut endings = BTreeMap::new();
    for attempt in &facts.attempts {
        let ending = match &attempt.reason {
            Some(reason) => format!("{}({reason})", attempt.state),
            None => attempt.state.clone(),
        };
        *endings.entry(ending).or_default() += 1;
    }
    let late = facts.attempts.iter().filter(|row| row.late_state.is_some());
    let outcomes = |device: &SettledDevice| {
        let ended = device.journal.iter().filter(|row| row.outcome.is_some());
        ended.count()
    };
    Summary {
        targets: facts.targets.len(),
        endings,
        late: late.count(),
        witness_lines: facts
            .devices
            .iter()
            .map(|device| device.witness.len())
            .sum(),
        journalled: facts.devices.iter().map(outcomes).sum(),
        sessions: facts.sessions.iter().collect::<BTreeSet<_>>().len(),
        releases: facts
            .devices
            .iter()
            .map(|device| device.currents.len())
            .sum(),
    }
}
