//! The attempt on the server and the journal on the agent as two machines that talk over a link
//! which loses what it likes, with crashes of either between any two steps. The rules are those the
//! programs run; only the shells around them (SQL, redb, gRPC, processes) are left out here, and
//! shown by `kernex-chaos` instead.

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

use agent::{Agent, Luck, Witnessed};
use ops::{Death, Op, Reach, op, op_or_restore};
use server::{Rows, Server};

/// Rounds in which a healed pair has to come to rest.
const ENOUGH: usize = 200;
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
    witness: BTreeMap<Witnessed, u32>,
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
            Op::Order { held } => {
                if self.server.rows.attempts.len() < TARGETS {
                    self.server.order(held, now);
                }
            }
            Op::Release => {
                let deadline = now.plus(server::DELIVERY);
                self.server.all(Fact::Released { deadline }, now);
            }
            Op::Cancel => self.server.all(Closing::Cancel, now),
            Op::Halt => self.server.all(Closing::Halt, now),
            Op::Retry => self.server.retry(now),
            Op::Time(seconds) => {
                self.now += u64::from(seconds);
                let now = self.now();
                self.server.all(Closing::Tick, now);
            }
            Op::Dispatch => self.down.extend(self.server.dispatch(now)),
            Op::WriteBehind => self.server.write_behind(now),
            Op::ServerTakes(death) => self.server_takes(death),
            Op::AgentTakes(death) => self.agent_takes(death),
            Op::Straggler => {
                if let Some(report) = self.stragglers.pop_front() {
                    self.server.report(&report, now);
                }
            }
            Op::Work(luck) => {
                let witness = &mut self.witness;
                self.agent
                    .work(luck, &mut |seen| *witness.entry(seen).or_default() += 1);
                self.up.extend(self.agent.unsent());
            }
            Op::Connect(reach) => self.connect(reach),
            Op::Cut => self.cut(),
            Op::ServerCrash => self.server_crash(),
            Op::AgentCrash => self.agent_crash(),
            Op::Backup => self.backup = Some(self.server.rows.clone()),
            Op::Restore => self.restore(),
        }
        self.check();
    }

    fn server_takes(&mut self, death: Death) {
        let Some(report) = self.up.pop_front() else {
            return;
        };
        if death != Death::BeforeCommit {
            let now = self.now();
            let answer = self.server.report(&report, now);
            if death == Death::None {
                self.down.extend(answer);
            }
        }
        if death != Death::None {
            self.server_crash();
        }
    }

    fn agent_takes(&mut self, death: Death) {
        let Some(message) = self.down.pop_front() else {
            return;
        };
        if death != Death::BeforeCommit {
            let answers = match &message {
                Down::Command(command) => self.agent.command(command),
                Down::Ack(ack) => self.agent.acknowledged(ack),
                _ => Vec::new(),
            };
            if death == Death::None {
                self.up.extend(answers);
            }
        }
        if death != Death::None {
            self.agent_crash();
        }
    }

    fn connect(&mut self, reach: Reach) {
        self.cut();
        let now = self.now();
        let (disk, held) = (&self.agent.disk, self.agent.held());
        let epoch = self
            .server
            .open(disk.epoch, &held, disk.acknowledged(), now);
        let recorded = self.server.rows.recorded;
        if reach == Reach::Opened {
            return;
        }
        self.agent.welcome(epoch);
        if reach == Reach::Welcomed {
            self.agent.session = None;
            return;
        }
        self.server.ready(epoch);
        self.up.extend(self.agent.opened(recorded));
    }

    /// What was under way may have reached the server's memory.
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
            // What the lost rows said is not held against those that are back.
            self.closed.clear();
        }
    }

    /// What holds after every step.
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

    /// No more faults: the two have to come to rest, and agree.
    fn heal(&mut self) {
        for _ in 0..ENOUGH {
            if self.agent.awaits_restart() {
                self.act(Op::AgentCrash);
            }
            if self.server.session.is_none() || self.agent.session != self.server.session {
                self.act(Op::Connect(Reach::Ready));
            }
            self.act(Op::Straggler);
            self.act(Op::Time(1));
            self.act(Op::Release);
            self.act(Op::Dispatch);
            self.act(Op::WriteBehind);
            while !self.down.is_empty() {
                self.act(Op::AgentTakes(Death::None));
            }
            self.act(Op::Work(Luck::Good));
            while !self.up.is_empty() {
                self.act(Op::ServerTakes(Death::None));
            }
            let quiet = self.down.is_empty() && self.stragglers.is_empty();
            if quiet && self.server.is_at_rest() && self.agent.disk.live.is_empty() {
                return self.agree();
            }
        }
        panic!(
            "no rest after {ENOUGH} rounds: {:#?}\n{:#?}",
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

/// A history, healed and judged.
fn play(ops: &[Op], has_way_back: bool) {
    let mut world = World::default();
    world.agent.has_way_back = has_way_back;
    world.act(Op::Order { held: false });
    world.act(Op::Connect(Reach::Ready));
    for op in ops {
        world.act(*op);
    }
    world.heal();
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
        has_way_back: bool,
    ) {
        play(&ops, has_way_back);
    }
}

proptest! {
    #![proptest_config(histories(40_000))]

    #[test]
    fn random_histories_with_restored_backups_lose_repeat_and_invent_nothing(
        ops in prop::collection::vec(op_or_restore(), 0..60),
        has_way_back: bool,
    ) {
        play(&ops, has_way_back);
    }
}

#[test]
fn a_push_that_is_written_down_late_hides_nothing() {
    let connect = Op::Connect(Reach::Ready);
    let both = [Op::ServerTakes(Death::None), Op::AgentTakes(Death::None)];
    let mut ops = vec![Op::Dispatch, both[1]];
    ops.extend([Op::Work(Luck::Good), Op::Work(Luck::Good)]);
    ops.extend(both);
    ops.extend([Op::AgentCrash, Op::Backup, connect]);
    ops.extend(both);
    ops.extend([Op::Restore, connect, Op::Dispatch, connect]);
    ops.push(Op::WriteBehind);
    play(&ops, false);
}
