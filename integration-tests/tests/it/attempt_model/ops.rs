//! Steps of a history, and how often each is drawn.

use proptest::prelude::*;

use super::agent::ScriptEnd;

/// One step of a history.
#[derive(Debug, Clone, Copy)]
pub(super) enum Op {
    Deploy {
        held: bool,
    },
    OpenTargets,
    Cancel,
    Halt,
    Retry,
    /// Seconds go by, and deadlines are looked at.
    TimePasses(u16),
    Dispatch,
    WriteBehind,
    /// The server takes the next report in; it may die before the answer is out, or before the
    /// commit.
    ServerReceives(CrashPoint),
    /// The agent takes the next message in; likewise.
    AgentReceives(CrashPoint),
    /// A report of a session that is over reaches the recorder after all.
    Straggler,
    /// One small step of the agent's executor; a script it runs ends like this.
    ExecutorStep(ScriptEnd),
    /// Connecting gets this far.
    Connect(HandshakeStage),
    Cut,
    ServerCrash,
    AgentCrash,
    Backup,
    Restore,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CrashPoint {
    None,
    BeforeCommit,
    AfterCommit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HandshakeStage {
    Opened,
    Welcomed,
    Ready,
}

fn script_end() -> impl Strategy<Value = ScriptEnd> {
    prop_oneof![
        6 => Just(ScriptEnd::Success),
        2 => Just(ScriptEnd::Failure),
        1 => Just(ScriptEnd::Exit75),
    ]
}

fn crash_point() -> impl Strategy<Value = CrashPoint> {
    prop_oneof![
        8 => Just(CrashPoint::None),
        1 => Just(CrashPoint::BeforeCommit),
        1 => Just(CrashPoint::AfterCommit),
    ]
}

fn stage() -> impl Strategy<Value = HandshakeStage> {
    prop_oneof![
        6 => Just(HandshakeStage::Ready),
        1 => Just(HandshakeStage::Opened),
        1 => Just(HandshakeStage::Welcomed),
    ]
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => any::<bool>().prop_map(|held| Op::Deploy { held }),
        1 => Just(Op::OpenTargets),
        1 => Just(Op::Cancel),
        1 => Just(Op::Halt),
        1 => Just(Op::Retry),
        1 => (0..400_u16).prop_map(Op::TimePasses),
        8 => Just(Op::Dispatch),
        4 => Just(Op::WriteBehind),
        10 => crash_point().prop_map(Op::ServerReceives),
        10 => crash_point().prop_map(Op::AgentReceives),
        2 => Just(Op::Straggler),
        16 => script_end().prop_map(Op::ExecutorStep),
        6 => stage().prop_map(Op::Connect),
        1 => Just(Op::Cut),
        1 => Just(Op::ServerCrash),
        2 => Just(Op::AgentCrash),
    ]
}

pub(super) fn op_or_restore() -> impl Strategy<Value = Op> {
    prop_oneof![20 => op(), 1 => Just(Op::Backup), 1 => Just(Op::Restore)]
}
