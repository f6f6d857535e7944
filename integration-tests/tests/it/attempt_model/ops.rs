//! What can happen to the two machines, and how often it does in a random history.

use proptest::prelude::*;

use super::agent::Luck;

/// Something that happens.
#[derive(Debug, Clone, Copy)]
pub(super) enum Op {
    Order {
        held: bool,
    },
    Release,
    Cancel,
    Halt,
    Retry,
    /// Seconds go by, and deadlines are looked at.
    Time(u16),
    Dispatch,
    WriteBehind,
    /// The server takes the next report in; it may die before the answer is out, or before the
    /// commit.
    ServerTakes(Death),
    /// The agent takes the next message in; likewise.
    AgentTakes(Death),
    /// A report of a session that is over reaches the recorder after all.
    Straggler,
    Work(Luck),
    /// Connecting gets this far.
    Connect(Reach),
    Cut,
    ServerCrash,
    AgentCrash,
    Backup,
    Restore,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Death {
    None,
    BeforeCommit,
    AfterCommit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    Opened,
    Welcomed,
    Ready,
}

fn luck() -> impl Strategy<Value = Luck> {
    prop_oneof![6 => Just(Luck::Good), 2 => Just(Luck::Bad), 1 => Just(Luck::TryAgain)]
}

fn death() -> impl Strategy<Value = Death> {
    prop_oneof![
        8 => Just(Death::None),
        1 => Just(Death::BeforeCommit),
        1 => Just(Death::AfterCommit),
    ]
}

fn reach() -> impl Strategy<Value = Reach> {
    prop_oneof![6 => Just(Reach::Ready), 1 => Just(Reach::Opened), 1 => Just(Reach::Welcomed)]
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => any::<bool>().prop_map(|held| Op::Order { held }),
        1 => Just(Op::Release),
        1 => Just(Op::Cancel),
        1 => Just(Op::Halt),
        1 => Just(Op::Retry),
        1 => (0..400_u16).prop_map(Op::Time),
        8 => Just(Op::Dispatch),
        4 => Just(Op::WriteBehind),
        10 => death().prop_map(Op::ServerTakes),
        10 => death().prop_map(Op::AgentTakes),
        2 => Just(Op::Straggler),
        16 => luck().prop_map(Op::Work),
        6 => reach().prop_map(Op::Connect),
        1 => Just(Op::Cut),
        1 => Just(Op::ServerCrash),
        2 => Just(Op::AgentCrash),
    ]
}

pub(super) fn op_or_restore() -> impl Strategy<Value = Op> {
    prop_oneof![20 => op(), 1 => Just(Op::Backup), 1 => Just(Op::Restore)]
}
