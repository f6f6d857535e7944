//! A model of one server and one agent. The attempt on the server and the journal on the agent are
//! two state machines. Their link may lose anything, and either may crash between any two steps.
//! The rules are those the programs run; only the shells around them (SQL, redb, gRPC, processes)
//! are left out here, and shown by `kernex-chaos` instead.

mod agent;
mod ops;
mod server;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use kernex_proto::{
    ids::AttemptId,
    v1::{self, Step, device_session_response::Message as Down},
};
use kernex_server::{
    clock::Timestamp,
    domain::attempt::{Closing, Ending, Fact, FailureReason, State},
};
use proptest::{prelude::*, test_runner::Config};

use agent::{Agent, ScriptEnd, ScriptRun};
use ops::{CrashPoint, HandshakeStage, Op, op, op_or_restore};
use server::{Rows, Server};

/// Most rounds until both are at rest once faults have ended.
const MAX_ROUNDS: usize = 200;
/// Most targets in one history.
const TARGETS: usize = 3;

#[derive(Debug, Default)]
struct World {
    server: Server,
    agent: Agent,
    up: VecDeque<v1::Report>,
    down: VecDeque<Down>,
    stragglers: VecDeque<v1::Report>,
    now: u64,
    witness: BTreeMap<ScriptRun, u32>,
    closed: BTreeMap<AttemptId, (State, Option<FailureReason>)>,
    backup: Option<Rows>,
    was_restored: bool,
}

impl World {
    fn now(&self) -> Timestamp {
        Timestamp(0).plus(Duration::from_secs(self.now))
    }

    fn act(&mut self, op: Op) {
        let now = self.now();
        match op {
            Op::Deploy { held } => {
                if self.server.rows.attempts.len() < TARGETS {
                    self.server.order(held, now);
                }
            }
            Op::OpenTargets => {
                let deadline = now.plus(server::DELIVERY);
                self.server.all(Fact::Opened { deadline }, now);
            }
            Op::Cancel => self.server.all(Closing::Cancel, now),
            Op::Halt => self.server.all(Closing::Halt, now),
            Op::Retry => self.server.retry(now),
            Op::TimePasses(seconds) => {
                self.now += u64::from(seconds);
                let now = self.now();
                self.server.all(Closing::Tick, now);
            }
            Op::Dispatch => self.down.extend(self.server.dispatch(now)),
            Op::WriteBehind => self.server.write_behind(now),
            Op::ServerReceives(crash_point) => self.server_receives(crash_point),
            Op::AgentReceives(crash_point) => self.agent_receives(crash_point),
            Op::Straggler => {
                if let Some(report) = self.stragglers.pop_front() {
                    self.server.report(&report, now);
                }
            }
            Op::ExecutorStep(script_end) => {
                let witness = &mut self.witness;
                self.agent.work(script_end, &mut |seen| {
                    *witness.entry(seen).or_default() += 1
                });
                self.up.extend(self.agent.unsent());
            }
            Op::Connect(stage) => self.connect(stage),
            Op::Cut => self.cut(),
            Op::ServerCrash => self.server_crash(),
            Op::AgentCrash => self.agent_crash(),
            Op::Backup => self.backup = Some(self.server.rows.clone()),
            Op::Restore => self.restore(),
        }
        self.check();
    }

    fn server_receives(&mut self, crash_point: CrashPoint) {
        let Some(report) = self.up.pop_front() else {
            return;
        };
        if crash_point != CrashPoint::BeforeCommit {
            let now = self.now();
            let answer = self.server.report(&report, now);
            if crash_point == CrashPoint::None {
                self.down.extend(answer);
            }
        }
        if crash_point != CrashPoint::None {
            self.server_crash();
        }
    }

    fn agent_receives(&mut self, crash_point: CrashPoint) {
        let Some(message) = self.down.pop_front() else {
            return;
        };
        if crash_point != CrashPoint::BeforeCommit {
            let answers = match &message {
                Down::Command(command) => self.agent.command(command),
                Down::Ack(ack) => self.agent.acknowledged(ack),
                _ => Vec::new(),
            };
            if crash_point == CrashPoint::None {
                self.up.extend(answers);
            }
        }
        if crash_point != CrashPoint::None {
            self.agent_crash();
        }
    }

    fn connect(&mut self, stage: HandshakeStage) {
        self.cut();
        let now = self.now();
        let (disk, held) = (&self.agent.disk, self.agent.held());
        let epoch = self
            .server
            .open(disk.epoch, &held, disk.acknowledged(), now);
        let recorded = self.server.rows.recorded;
        if stage == HandshakeStage::Opened {
            return;
        }
        self.agent.welcome(epoch);
        if stage == HandshakeStage::Welcomed {
            self.agent.session = None;
            return;
        }
        self.server.ready(epoch);
        self.up.extend(self.agent.opened(recorded));
    }

    /// The session breaks. Reports on their way may still reach the recorder later.
    fn cut(&mut self) {
        self.stragglers.append(&mut self.up);
        self.down.clear();
        self.agent.session = None;
        self.server.lose_session();
    }

    fn server_crash(&mut self) {
        self.cut();
        self.stragglers.clear();
        self.server.crash();
    }

    fn agent_crash(&mut self) {
        self.cut();
        self.agent.crash();
    }

    fn restore(&mut self) {
        if let Some(rows) = self.backup.take() {
            self.server_crash();
            self.server.rows = rows;
            self.was_restored = true;
            // The restored rows may differ from the lost ones.
            self.closed.clear();
        }
    }

    /// Invariants after every step.
    fn check(&mut self) {
        for (seen, times) in &self.witness {
            assert_eq!(*times, 1, "{seen:?} ran {times} times");
        }
        for (id, row) in &self.server.rows.attempts {
            let is = (row.facts.state, row.facts.reason);
            let was = self.closed.get(id);
            assert!(
                was.is_none_or(|was| *was == is),
                "{id} was {was:?} and is {is:?}"
            );
            if !row.facts.state.is_open() {
                self.closed.insert(*id, is);
            }
        }
    }

    /// Ends all faults: both have to come to rest and agree.
    fn end_faults(&mut self) {
        for _ in 0..MAX_ROUNDS {
            if self.agent.awaits_restart() {
                self.act(Op::AgentCrash);
            }
            if self.server.session.is_none() || self.agent.session != self.server.session {
                self.act(Op::Connect(HandshakeStage::Ready));
            }
            self.act(Op::Straggler);
            self.act(Op::TimePasses(1));
            self.act(Op::OpenTargets);
            self.act(Op::Dispatch);
            self.act(Op::WriteBehind);
            while !self.down.is_empty() {
                self.act(Op::AgentReceives(CrashPoint::None));
            }
            self.act(Op::ExecutorStep(ScriptEnd::Success));
            while !self.up.is_empty() {
                self.act(Op::ServerReceives(CrashPoint::None));
            }
            let quiet = self.down.is_empty() && self.stragglers.is_empty();
            if quiet && self.server.is_at_rest() && self.agent.disk.live.is_empty() {
                return self.agree();
            }
        }
        panic!(
            "no rest after {MAX_ROUNDS} rounds: {:#?}\n{:#?}",
            self.server, self.agent
        );
    }

    fn agree(&self) {
        for (id, record) in &self.agent.disk.tombstones {
            let outcome = record.outcome.as_ref().expect("a tombstone has an outcome");
            let said = Ending::try_from(outcome).expect("makes sense");
            match self.server.rows.attempts.get(id) {
                Some(row) => assert_eq!(row.ending, Some(said), "{id}: {row:?}"),
                None => {
                    assert!(self.was_restored, "{id} is not known");
                    assert_eq!(self.server.rows.aside.get(id), Some(&said), "{id}");
                }
            }
        }
        let (known, running) = (&self.server.rows.running, &self.agent.disk.running);
        assert_eq!(known, running, "the device runs what it is known to run");
        assert_eq!(self.server.rows.recorded, self.agent.disk.acknowledged());
        for (id, row) in &self.server.rows.attempts {
            let record = self.agent.disk.tombstones.get(id);
            assert!(row.ending.is_none() || record.is_some(), "{id}: {row:?}");
            let by_its_device = matches!(row.facts.state, State::Succeeded | State::Failed);
            assert_eq!(row.facts.answered, row.ending.is_some(), "{id}: {row:?}");
            assert!(row.facts.answered || !by_its_device, "{id}: {row:?}");
            assert_ne!(row.facts.reason, Some(FailureReason::JournalLost), "{id}");
            if row.facts.state == State::Succeeded {
                assert_eq!(row.ending, Some(Ending::Succeeded), "{id}: {row:?}");
            }
            if row.ending == Some(Ending::Succeeded) {
                let ran = |step| {
                    let runs = self
                        .witness
                        .keys()
                        .filter(|(of, at, _)| of == id && *at == step);
                    runs.count()
                };
                assert_eq!((ran(Step::Script), ran(Step::PostHook)), (1, 1), "{id}");
                assert_eq!(ran(Step::Rollback), 0, "{id}");
            }
        }
    }
}

/// Plays a history, ends all faults and checks the result.
fn play(ops: &[Op], has_rollback_script: bool) {
    let mut world = World::default();
    world.agent.has_rollback_script = has_rollback_script;
    world.act(Op::Deploy { held: false });
    world.act(Op::Connect(HandshakeStage::Ready));
    for op in ops {
        world.act(*op);
    }
    world.end_faults();
}

fn histories(cases: u32) -> Config {
    Config {
        failure_persistence: None,
        ..Config::with_cases(cases)
    }
}

proptest! {
    #![proptest_config(histories(60_000))]

    #[test]
    fn random_histories_lose_repeat_and_invent_nothing(
        ops in prop::collection::vec(op(), 0..60),
        has_rollback_script: bool,
    ) {
        play(&ops, has_rollback_script);
    }
}

proptest! {
    #![proptest_config(histories(100_000))]

    #[test]
    fn random_histories_with_restored_backups_lose_repeat_and_invent_nothing(
        ops in prop::collection::vec(op_or_restore(), 0..60),
        has_rollback_script: bool,
    ) {
        play(&ops, has_rollback_script);
    }
}

#[test]
fn a_push_that_is_written_down_late_hides_nothing() {
    let connect = Op::Connect(HandshakeStage::Ready);
    let both = [
        Op::ServerReceives(CrashPoint::None),
        Op::AgentReceives(CrashPoint::None),
    ];
    let mut ops = vec![Op::Dispatch, both[1]];
    ops.extend([
        Op::ExecutorStep(ScriptEnd::Success),
        Op::ExecutorStep(ScriptEnd::Success),
    ]);
    ops.extend(both);
    ops.extend([Op::AgentCrash, Op::Backup, connect]);
    ops.extend(both);
    ops.extend([Op::Restore, connect, Op::Dispatch, connect]);
    ops.push(Op::WriteBehind);
    play(&ops, false);
}
