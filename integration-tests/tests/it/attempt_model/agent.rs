//! The agent of the model: what is on its disk, what it sends, and what a crash leaves. It calls
//! the rules of the real agent.

mod executor;

use std::collections::{BTreeMap, BTreeSet};

use kernex_agent::journal::{
    BootInstant, Record, Stage,
    rules::{AckedReport, StopDecision},
};
use kernex_proto::{
    ids::AttemptId,
    v1::{self, AttemptState, Disposition, FailureReason, Step, command::Action},
};
use kernex_server::domain::attempt::State;

use executor::ExecutorState;

/// What survives a crash.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk {
    pub(super) live: BTreeMap<AttemptId, Record>,
    pub(super) tombstones: BTreeMap<AttemptId, Record>,
    seq: u64,
    pub(super) epoch: u64,
    /// What runs, by the attempt that brought it there.
    pub(super) running: String,
}

/// Outcomes that a restored server has lost and that are sent again.
#[derive(Debug)]
struct Resending {
    through: u64,
    waiting: BTreeSet<u64>,
}

/// Outcomes that are sent again at a time.
const PAGE: usize = 2;

/// How a script ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ScriptEnd {
    Success,
    Failure,
    Exit75,
}

/// A script that ran, as a witness would see it.
pub(super) type ScriptRun = (AttemptId, Step, u32);

#[derive(Debug, Default)]
pub(super) struct Agent {
    pub(super) disk: Disk,
    pub(super) session: Option<u64>,
    /// A Welcome has confirmed it since it started.
    confirmed: bool,
    sent: BTreeSet<u64>,
    again: Option<Resending>,
    running: Option<(AttemptId, ExecutorState)>,
    /// Progress reports that are not sent yet.
    told: Vec<v1::Report>,
    /// The previous release has rollback scripts.
    pub(super) has_rollback_script: bool,
}

impl Disk {
    fn next_seq(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }

    fn get(&self, id: AttemptId) -> Option<&Record> {
        self.live.get(&id).or_else(|| self.tombstones.get(&id))
    }

    /// Outcomes in the order they were made.
    fn outcomes(&self) -> BTreeMap<u64, AttemptId> {
        let all = self.live.iter().chain(&self.tombstones);
        let ended = all.filter(|(_, record)| record.outcome.is_some());
        ended
            .map(|(id, record)| (record.outcome_seq, *id))
            .collect()
    }

    fn outcome_report(&self, id: AttemptId) -> Option<v1::Report> {
        let mut report = self.get(id)?.outcome_report(id)?;
        let before = self
            .outcomes()
            .range(..report.seq)
            .next_back()
            .map(|(seq, _)| *seq);
        report.previous_outcome_seq = Some(before.unwrap_or(0));
        Some(report)
    }

    /// Every outcome up to this has been acknowledged.
    pub(super) fn acknowledged(&self) -> u64 {
        let outcomes = self.outcomes().into_iter();
        let told = outcomes.take_while(|(_, id)| self.tombstones.contains_key(id));
        told.last().map_or(0, |(seq, _)| seq)
    }

    fn finish(&mut self, id: AttemptId, mut outcome: v1::Outcome) {
        let seq = self.next_seq();
        if outcome.state() == AttemptState::Succeeded {
            self.running = id.to_string();
        }
        outcome.active = Some(Box::new(v1::ActiveRelease {
            digest: self.running.clone(),
            ..v1::ActiveRelease::default()
        }));
        if let Some(record) = self.live.get_mut(&id) {
            record.finish(outcome, String::new(), seq);
        }
    }

    fn stop(&mut self, id: AttemptId, command: &v1::Command) {
        match Record::stopped(self.get(id).cloned(), command) {
            StopDecision::Over => {}
            StopDecision::UnderWay(record) => drop(self.live.insert(id, record)),
            StopDecision::Unbegun(record) => {
                self.live.insert(id, record);
                self.finish(
                    id,
                    outcome(AttemptState::Cancelled, FailureReason::Unspecified),
                );
            }
        }
    }
}

impl Agent {
    /// What Hello lists.
    pub(super) fn held(&self) -> BTreeMap<AttemptId, State> {
        let states = self.disk.live.iter().map(|(id, record)| {
            let state = State::try_from(record.state()).expect("a known state");
            (*id, state)
        });
        states.collect()
    }

    /// Welcome: the epoch goes to disk.
    pub(super) fn welcome(&mut self, epoch: u64) {
        self.disk.epoch = self.disk.epoch.max(epoch);
        self.session = Some(epoch);
        self.sent.clear();
        self.again = None;
    }

    /// The session is open. Unacknowledged reports are sent again, and outcomes that the server has
    /// lost.
    pub(super) fn opened(&mut self, recorded: u64) -> Vec<v1::Report> {
        self.confirmed = true;
        let mut reports = Vec::new();
        let outcomes = self.disk.outcomes();
        let mut above = outcomes.range(recorded + 1..);
        if above.any(|(_, id)| self.disk.tombstones.contains_key(id)) {
            self.again = Some(Resending {
                through: recorded,
                waiting: BTreeSet::new(),
            });
            reports = self.go_on_again();
        }
        reports.extend(self.unsent());
        for (id, record) in &self.disk.live {
            let deferred = record.deferred_report(*id);
            reports.extend(deferred.filter(|report| self.sent.insert(report.seq)));
        }
        reports
    }

    /// The next page of outcomes that are sent again.
    fn go_on_again(&mut self) -> Vec<v1::Report> {
        let outcomes = self.disk.outcomes();
        let Some(again) = self.again.as_mut().filter(|again| again.waiting.is_empty()) else {
            return Vec::new();
        };
        let next: Vec<_> = outcomes.range(again.through + 1..).take(PAGE).collect();
        let Some((last, _)) = next.last() else {
            self.again = None;
            return self.unsent();
        };
        again.through = **last;
        again.waiting = next.iter().map(|(seq, _)| **seq).collect();
        self.sent.extend(&again.waiting);
        let reports = next
            .iter()
            .filter_map(|(_, id)| self.disk.outcome_report(**id));
        reports.collect()
    }

    fn waits_for_its_turn(&self, seq: u64) -> bool {
        self.again.as_ref().is_some_and(|again| seq > again.through)
    }

    /// Reports that are neither acknowledged nor sent in this session.
    pub(super) fn unsent(&mut self) -> Vec<v1::Report> {
        if self.session.is_none() {
            return Vec::new();
        }
        let mut reports = std::mem::take(&mut self.told);
        for (id, record) in &self.disk.live {
            if !record.accepted_acked {
                reports.extend(record.accepted_report(*id));
            }
            if !record.deferred_acked {
                reports.extend(record.deferred_report(*id));
            }
            let outcome = self.disk.outcome_report(*id);
            reports.extend(outcome.filter(|report| !self.waits_for_its_turn(report.seq)));
        }
        reports.sort_by_key(|report| report.seq);
        reports.retain(|report| self.sent.insert(report.seq));
        reports
    }

    /// Journals a command of this session. Its reports are sent if no crash comes first.
    pub(super) fn command(&mut self, command: &v1::Command) -> Vec<v1::Report> {
        let id = command.attempt.as_ref().map(AttemptId::try_from);
        let id = id.expect("about an attempt").expect("a good id");
        match &command.action {
            Some(Action::Stop(_)) => self.disk.stop(id, command),
            _ => match self.disk.get(id).cloned() {
                None => {
                    let seq = self.disk.next_seq();
                    let record = Record::accepted(command, BootInstant::default(), seq);
                    self.disk.live.insert(id, record);
                }
                Some(record) => {
                    if let Some(record) = record.regranted(command) {
                        self.disk.live.insert(id, record);
                    }
                }
            },
        }
        let outcome = self.disk.outcome_report(id);
        let mut reports = if outcome.is_some() {
            self.unsent()
        } else {
            Vec::new()
        };
        let Some(record) = self.disk.get(id) else {
            return reports;
        };
        let known = [
            record.accepted_report(id),
            record.deferred_report(id),
            outcome.filter(|report| !self.waits_for_its_turn(report.seq)),
        ];
        let known = known.into_iter().flatten();
        let known: Vec<_> = known.filter(|report| !reports.contains(report)).collect();
        self.sent.extend(known.iter().map(|report| report.seq));
        reports.extend(known);
        reports
    }

    /// Journals an acknowledgement; returns the reports that follow.
    pub(super) fn acknowledged(&mut self, ack: &v1::Ack) -> Vec<v1::Report> {
        if let Some(again) = &mut self.again {
            again.waiting.remove(&ack.seq);
        }
        self.journalled(ack);
        let mut reports = self.go_on_again();
        reports.extend(self.unsent());
        reports
    }

    fn journalled(&mut self, ack: &v1::Ack) {
        let hit = self
            .disk
            .live
            .iter()
            .find_map(|(id, record)| Some((*id, record.report(ack.seq)?)));
        let Some((id, what)) = hit else {
            return;
        };
        if let Some(record) = self.disk.live.get_mut(&id) {
            record.acknowledge(what);
        }
        let unwanted = matches!(
            ack.disposition(),
            Disposition::Late | Disposition::Unknown | Disposition::Refused
        );
        match what {
            AckedReport::Outcome => {
                let record = self.disk.live.remove(&id).expect("was found");
                self.disk.tombstones.insert(id, record);
            }
            AckedReport::Deferred if ack.disposition() == Disposition::Unknown => {
                self.disk
                    .finish(id, outcome(AttemptState::Failed, FailureReason::Refused));
            }
            AckedReport::Accepted | AckedReport::Deferred if unwanted => {
                if self.disk.live[&id].state() == AttemptState::Accepted {
                    self.disk.stop(id, &v1::Command::default());
                }
            }
            AckedReport::Accepted | AckedReport::Deferred => {}
        }
    }

    /// The machine or the program crashes and starts again. Steps that were cut off are ended.
    pub(super) fn crash(&mut self) {
        self.session = None;
        self.confirmed = false;
        self.running = None;
        self.told.clear();
        self.sent.clear();
        self.again = None;
        let ids: Vec<AttemptId> = self.disk.live.keys().copied().collect();
        for id in ids {
            let record = self.disk.live[&id].clone();
            if record.stage() != Some(Stage::CutOff) {
                continue;
            }
            let step = record.started.clone().unwrap_or_default().step();
            let failing = record.failing.clone().unwrap_or_else(|| {
                if record.stop_requested {
                    outcome(AttemptState::Cancelled, FailureReason::Unspecified)
                } else {
                    outcome(AttemptState::Failed, FailureReason::Interrupted)
                }
            });
            match step {
                Step::Rollback => self.disk.finish(
                    id,
                    outcome(AttemptState::Failed, FailureReason::RollbackFailed),
                ),
                Step::PreHook => self.disk.finish(id, failing),
                _ if self.has_rollback_script => {
                    if let Some(record) = self.disk.live.get_mut(&id) {
                        record.fail(failing);
                    }
                }
                _ => self.disk.finish(id, failing),
            }
        }
    }
}

fn outcome(state: AttemptState, reason: FailureReason) -> v1::Outcome {
    v1::Outcome {
        state: state.into(),
        reason: reason.into(),
        ..v1::Outcome::default()
    }
}
