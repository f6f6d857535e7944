//! The server of the model: committed rows, and memory that a crash loses. It calls the rules of
//! the real server.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use kernex_proto::{
    ids::{AttemptId, TargetId},
    v1::{self, command::Action, device_session_response::Message as Down, report},
};
use kernex_server::{
    clock::Timestamp,
    domain::attempt::{
        Attempt, Closing, Effect, Ending, Event, Fact, Sent, State, Step, apply, disposition,
        next_run,
    },
};
use uuid::Uuid;

/// Until when an attempt may wait for its device, from its creation.
pub(super) const DELIVERY: Duration = Duration::from_secs(600);
/// How long it may take once accepted.
const EXECUTION: Duration = Duration::from_secs(300);

/// One attempt in the database.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) facts: Attempt,
    /// What the agent said, in time or late.
    pub(super) ending: Option<Ending>,
    sent: Sent,
    stop_sent_epoch: u64,
    run: Option<(u32, Option<Timestamp>)>,
}

/// What survives a crash.
#[derive(Debug, Clone, Default)]
pub(super) struct Rows {
    pub(super) attempts: BTreeMap<AttemptId, Row>,
    /// Outcomes of attempts that these rows do not know, once each.
    pub(super) aside: BTreeMap<AttemptId, Ending>,
    /// Every outcome of the agent's journal numbered up to this is in these rows.
    pub(super) recorded: u64,
    /// What the device is known to run, by the attempt that brought it there.
    pub(super) running: String,
    epoch: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Pushed {
    Deploy(AttemptId, u32),
    /// The flag says whether going back has to end, too.
    Stop(AttemptId, bool),
}

#[derive(Debug, Default)]
pub(super) struct Server {
    pub(super) rows: Rows,
    /// The session in the registry.
    pub(super) session: Option<u64>,
    pushed: BTreeSet<Pushed>,
    /// Pushes that are to be written down, with their sessions.
    unwritten: Vec<(Pushed, u64)>,
    /// Targets that ever were. No id comes again, also not after a backup is restored.
    targets: u128,
}

impl Server {
    /// A deployment of the one bundle name: a target with its first attempt.
    pub(super) fn order(&mut self, held: bool, now: Timestamp) {
        self.know_pushes(now);
        for row in self.rows.attempts.values_mut() {
            row.apply(Closing::Supersede, now);
        }
        self.targets += 1;
        let target = TargetId(Uuid::from_u128(self.targets));
        let attempt = if held {
            Attempt::held(EXECUTION)
        } else {
            Attempt::new(State::Pending, now.plus(DELIVERY), EXECUTION)
        };
        self.rows
            .attempts
            .insert(AttemptId { target, number: 1 }, Row::new(attempt));
    }

    /// The newest target's failed attempt is tried again.
    pub(super) fn retry(&mut self, now: Timestamp) {
        if let Some((id, row)) = self.rows.attempts.last_key_value()
            && row.facts.state == State::Failed
        {
            let next = AttemptId {
                number: id.number + 1,
                ..*id
            };
            let attempt = Attempt::new(State::Pending, now.plus(DELIVERY), EXECUTION);
            self.rows.attempts.insert(next, Row::new(attempt));
        }
    }

    /// A decision knows every push, also one that is not written yet.
    fn know_pushes(&mut self, now: Timestamp) {
        for (what, epoch) in &self.unwritten {
            let (Pushed::Deploy(id, _) | Pushed::Stop(id, _)) = what;
            if let (Pushed::Deploy(..), Some(row)) = (what, self.rows.attempts.get_mut(id)) {
                row.note_push(*epoch, now);
            }
        }
    }

    /// An event for every attempt; each rule ignores what does not concern it.
    pub(super) fn all(&mut self, event: impl Into<Event>, now: Timestamp) {
        let event = event.into();
        if matches!(event, Event::Close(_)) {
            self.know_pushes(now);
        }
        for row in self.rows.attempts.values_mut() {
            row.apply(event, now);
        }
    }

    /// Hello: the epoch and the agent's complete list, in one commit.
    pub(super) fn open(
        &mut self,
        last_epoch: u64,
        held: &BTreeMap<AttemptId, State>,
        acknowledged: u64,
        now: Timestamp,
    ) -> u64 {
        let is_ahead = self.rows.recorded < acknowledged;
        self.know_pushes(now);
        self.rows.epoch = self.rows.epoch.max(last_epoch) + 1;
        for (id, row) in &mut self.rows.attempts {
            if !row.facts.unresolved && !held.contains_key(id) {
                continue;
            }
            if held.contains_key(id) && !row.sent.is_known() {
                row.sent = Sent(self.rows.epoch as i64);
            }
            match held.get(id) {
                Some(state) if state.is_open() => drop(row.apply(Fact::Held, now)),
                Some(_) => drop(row.apply(Fact::HeldEnded, now)),
                None if row.facts.is_at_work() => {
                    row.sent = Sent::again_from(self.rows.epoch as i64);
                }
                None if is_ahead && row.facts.state == State::Sent => {}
                None => {
                    let was_sent = row.facts.state == State::Sent;
                    let changed = row.apply(Fact::NotHeld, now).changed().is_some();
                    if was_sent && changed {
                        row.sent = Sent::again_from(self.rows.epoch as i64);
                    }
                }
            }
        }
        // An attempt that no device has received gives way to a newer order.
        let newest = self.rows.attempts.keys().map(|id| id.target).max();
        for (id, row) in &mut self.rows.attempts {
            if row.facts.untaken && Some(id.target) < newest {
                row.apply(Closing::Supersede, now);
            }
        }
        self.rows.epoch
    }

    /// Ready: the session is in the registry.
    pub(super) fn ready(&mut self, epoch: u64) {
        self.session = Some(epoch);
        self.pushed.clear();
    }

    /// The session is over.
    pub(super) fn lose_session(&mut self) {
        self.session = None;
        self.pushed.clear();
    }

    /// Everything but the rows is gone.
    pub(super) fn crash(&mut self) {
        self.lose_session();
        self.unwritten.clear();
    }

    /// One pass of the dispatcher.
    pub(super) fn dispatch(&mut self, now: Timestamp) -> Vec<Down> {
        let Some(epoch) = self.session else {
            return Vec::new();
        };
        let mut commands = Vec::new();
        let mut is_head = true;
        let unresolved = self
            .rows
            .attempts
            .iter()
            .filter(|(_, r)| r.facts.unresolved);
        for (id, row) in unresolved {
            let head = std::mem::replace(&mut is_head, false);
            let run = row.run.map_or(1, |(run, _)| run);
            let what = if row.facts.stop_requested {
                {
                    let stop = Pushed::Stop(*id, row.facts.stop_going_back);
                    (row.stop_sent_epoch < epoch).then_some(stop)
                }
            } else {
                (head && row.is_due(epoch, now)).then_some(Pushed::Deploy(*id, run))
            };
            let Some(what) = what.filter(|what| self.pushed.insert(*what)) else {
                continue;
            };
            self.unwritten.push((what, epoch));
            commands.push(Down::Command(what.command(epoch)));
        }
        commands
    }

    /// Writes down what was pushed.
    pub(super) fn write_behind(&mut self, now: Timestamp) {
        for (what, epoch) in std::mem::take(&mut self.unwritten) {
            let (Pushed::Deploy(id, _) | Pushed::Stop(id, _)) = what;
            let Some(row) = self.rows.attempts.get_mut(&id) else {
                continue;
            };
            match what {
                Pushed::Deploy(_, run) => {
                    row.note_push(epoch, now);
                    if let Some((granted, due)) = &mut row.run
                        && *granted == run
                    {
                        *due = None;
                    }
                }
                Pushed::Stop(_, going_back) => {
                    if row.facts.stop_requested && row.facts.stop_going_back == going_back {
                        row.stop_sent_epoch = row.stop_sent_epoch.max(epoch);
                    }
                }
            }
        }
    }

    /// Commits a report. The answer is sent if no crash comes first.
    pub(super) fn report(&mut self, report: &v1::Report, now: Timestamp) -> Option<Down> {
        let id = report.attempt.as_ref().map(AttemptId::try_from)?.ok()?;
        let event = report.event.as_ref()?;
        let seq = report.seq;
        let (disposition, is_news) = match self.rows.attempts.get_mut(&id) {
            None => {
                if let report::Event::Outcome(outcome) = event {
                    let ending = Ending::try_from(outcome).expect("an agent makes sense");
                    self.rows.aside.entry(id).or_insert(ending);
                }
                (v1::Disposition::Unknown, seq > self.rows.recorded)
            }
            Some(row) => {
                let answer = row.report(event, now);
                (answer, answer != v1::Disposition::Duplicate)
            }
        };
        if let report::Event::Outcome(outcome) = event {
            if is_news {
                self.rows.running = outcome.active.clone().unwrap_or_default().digest;
            }
            let before = report.previous_outcome_seq.expect("this agent says");
            if before <= self.rows.recorded {
                self.rows.recorded = self.rows.recorded.max(seq);
            }
        }
        (seq != 0).then(|| {
            Down::Ack(v1::Ack {
                seq,
                disposition: disposition.into(),
            })
        })
    }

    /// Whether anything is left to be done.
    pub(super) fn is_at_rest(&self) -> bool {
        let mut rows = self.rows.attempts.values();
        rows.all(|row| !row.facts.state.is_open() && !row.facts.unresolved)
    }
}

impl Pushed {
    fn command(self, epoch: u64) -> v1::Command {
        let (Self::Deploy(id, _) | Self::Stop(id, _)) = self;
        let (action, run) = match self {
            Self::Deploy(_, run) => (Action::Deploy(v1::Deploy::default()), run),
            Self::Stop(_, going_back) => {
                let stop = v1::Stop {
                    going_back,
                    overdue: false,
                };
                (Action::Stop(stop), 1)
            }
        };
        v1::Command {
            attempt: Some(id.into()),
            epoch,
            run,
            action: Some(action),
            ..v1::Command::default()
        }
    }
}

impl Row {
    fn new(facts: Attempt) -> Self {
        Self {
            facts,
            ending: None,
            sent: Sent(0),
            stop_sent_epoch: 0,
            run: None,
        }
    }

    fn apply(&mut self, event: impl Into<Event>, now: Timestamp) -> Effect {
        let verdict = apply(&self.facts, event, now);
        if let Some(next) = verdict.clone().changed() {
            if next.stop_going_back && !self.facts.stop_going_back {
                self.stop_sent_epoch = 0;
            }
            self.facts = next;
        }
        verdict
    }

    fn note_push(&mut self, epoch: u64, now: Timestamp) {
        let noted = self.sent.noted(epoch as i64);
        if noted != self.sent || !self.sent.is_taken_back() {
            self.apply(Fact::Sent, now);
            self.sent = noted;
        }
    }

    /// As the dispatcher's query has it.
    fn is_due(&self, epoch: u64, now: Timestamp) -> bool {
        let waits = match self.facts.state {
            State::Pending | State::Sent => self.facts.delivery_deadline > now,
            _ => self.facts.is_at_work() && !self.sent.is_known(),
        };
        let granted = self.facts.is_at_work()
            && self
                .run
                .is_some_and(|(_, due)| due.is_some_and(|due| due <= now));
        waits && self.sent.is_new_to(epoch as i64) || granted
    }

    fn report(&mut self, event: &report::Event, now: Timestamp) -> v1::Disposition {
        let what = match event {
            report::Event::Accepted(_) | report::Event::Deferred(_) => Fact::Accepted,
            report::Event::Progress(progress) => Fact::Progress {
                step: Step::try_from(progress.step()).expect("a known step"),
                bytes: (0, 0),
                stopped: progress.stopped,
            },
            report::Event::Outcome(outcome) => {
                Fact::Outcome(Ending::try_from(outcome).expect("an agent makes sense"))
            }
        };
        let verdict = self.apply(what, now);
        if matches!(verdict, Effect::Applied(_)) && !self.sent.is_known() {
            self.sent = Sent::SOMETIME;
        }
        if let Fact::Outcome(ending) = what
            && verdict.clone().changed().is_some()
        {
            assert_eq!(self.ending, None, "an outcome is written once");
            self.ending = Some(ending);
        }
        let asks = matches!(event, report::Event::Deferred(_));
        let answer = disposition(&verdict, &self.facts, asks).into();
        if let report::Event::Deferred(deferred) = event
            && answer == v1::Disposition::Applied
            && let Some((run, due)) = next_run(self.run, deferred.into(), now)
        {
            self.run = Some((run, Some(due)));
        }
        answer
    }
}
