//! The journal over crashes, damage and repetition. Reopening without closing is what a crash looks
//! like to it.

use std::fs;

use kernex_proto::ids::TargetId;

use super::*;

mod stages;

struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("journal.redb")
    }

    fn open(&self) -> Journal {
        let (journal, aside) = Journal::open(&self.path()).unwrap();
        assert_eq!(aside, None);
        journal
    }
}

fn id() -> AttemptId {
    AttemptId {
        target: TargetId::generate(),
        number: 1,
    }
}

fn deploy() -> v1::Command {
    v1::Command {
        traceparent: "00-1-2-01".into(),
        action: Some(v1::command::Action::Deploy(v1::Deploy {
            name: "app".into(),
            version: "1".into(),
            ..v1::Deploy::default()
        })),
        ..v1::Command::default()
    }
}

fn accept(journal: &Journal, id: AttemptId) -> Acceptance {
    journal
        .accept(id, &deploy(), BootInstant::default())
        .unwrap()
}

fn succeeded() -> v1::Outcome {
    v1::Outcome {
        state: v1::AttemptState::Succeeded.into(),
        output_tail: "x".repeat(10_000),
        ..v1::Outcome::default()
    }
}

fn finish(journal: &Journal, id: AttemptId) {
    journal
        .finish(id, succeeded(), None, String::new())
        .unwrap();
}

#[test]
fn everything_survives_reopening() {
    let bench = Bench::new();
    let (a, b) = (id(), id());
    let first = {
        let journal = bench.open();
        journal.confirm_epoch(7).unwrap();
        accept(&journal, a);
        accept(&journal, b);
        assert!(
            journal
                .start(
                    a,
                    Started {
                        pid: 5,
                        ..Started::default()
                    }
                )
                .unwrap()
        );
        journal.id()
    };
    let journal = bench.open();
    assert_eq!(journal.id(), first);
    assert_eq!(journal.epoch().unwrap(), 7);
    assert_eq!(
        journal.get(a).unwrap().unwrap().state(),
        v1::AttemptState::Running
    );
    assert_eq!(journal.next_ready().unwrap(), Some(b));
    let seqs: Vec<u64> = journal
        .unacknowledged()
        .unwrap()
        .iter()
        .map(|r| r.seq)
        .collect();
    assert_eq!(seqs, [1, 2]);
}

#[test]
fn an_epoch_never_goes_back() {
    let journal = Bench::new().open();
    journal.confirm_epoch(7).unwrap();
    journal.confirm_epoch(3).unwrap();
    assert_eq!(journal.epoch().unwrap(), 7);
}

#[test]
fn a_repeated_command_is_known_for_ever() {
    let bench = Bench::new();
    let journal = bench.open();
    let a = id();
    assert_eq!(accept(&journal, a), Acceptance::New);
    assert_eq!(accept(&journal, a), Acceptance::Known);
    finish(&journal, a);
    assert_eq!(accept(&journal, a), Acceptance::Known);
    let outcome = journal.get(a).unwrap().unwrap().outcome_report(a).unwrap();
    assert_eq!(
        journal.acknowledge(outcome.seq, 0).unwrap(),
        AckResult::Outcome(a)
    );
    assert!(journal.live().unwrap().is_empty());
    assert_eq!(accept(&journal, a), Acceptance::Known);
    drop(journal);
    let journal = bench.open();
    assert_eq!(accept(&journal, a), Acceptance::Known);
    let again = journal.get(a).unwrap().unwrap().outcome_report(a).unwrap();
    assert_eq!(again.seq, outcome.seq);
    let Some(v1::report::Event::Outcome(kept)) = again.event else {
        panic!("a tombstone keeps its outcome");
    };
    assert_eq!(kept.output_tail.len(), 4096);
}

#[test]
fn reports_wait_for_their_own_acknowledgement() {
    let journal = Bench::new().open();
    let a = id();
    accept(&journal, a);
    finish(&journal, a);
    let waiting = |journal: &Journal| journal.unacknowledged().unwrap().len();
    assert_eq!(waiting(&journal), 2);
    assert_eq!(journal.acknowledge(99, 0).unwrap(), AckResult::Nothing);
    assert_eq!(journal.acknowledge(0, 0).unwrap(), AckResult::Nothing);
    assert_eq!(waiting(&journal), 2);
    assert_eq!(journal.acknowledge(1, 0).unwrap(), AckResult::Accepted(a));
    assert_eq!(waiting(&journal), 1);
    assert_eq!(journal.acknowledge(2, 0).unwrap(), AckResult::Outcome(a));
    assert_eq!(journal.acknowledge(2, 0).unwrap(), AckResult::Nothing);
    assert_eq!(waiting(&journal), 0);
}

#[test]
fn an_outcome_is_written_once() {
    let journal = Bench::new().open();
    let a = id();
    accept(&journal, a);
    finish(&journal, a);
    let failed = v1::Outcome {
        state: v1::AttemptState::Failed.into(),
        ..v1::Outcome::default()
    };
    journal.finish(a, failed, None, String::new()).unwrap();
    assert_eq!(
        journal.get(a).unwrap().unwrap().state(),
        v1::AttemptState::Succeeded
    );
}

#[test]
fn a_stop_comes_before_during_and_after() {
    let journal = Bench::new().open();
    let stop = v1::Command {
        action: Some(v1::command::Action::Stop(v1::Stop::default())),
        ..v1::Command::default()
    };
    let (unseen, waiting, running, over) = (id(), id(), id(), id());
    assert_eq!(journal.stop(unseen, &stop).unwrap(), StopResult::Cancelled);
    assert_eq!(accept(&journal, unseen), Acceptance::Known);
    accept(&journal, waiting);
    assert_eq!(journal.stop(waiting, &stop).unwrap(), StopResult::Cancelled);
    assert!(!journal.start(waiting, Started::default()).unwrap());
    accept(&journal, running);
    assert!(journal.start(running, Started::default()).unwrap());
    assert_eq!(journal.stop(running, &stop).unwrap(), StopResult::UnderWay);
    assert!(
        !journal.start(running, Started::default()).unwrap(),
        "no further step"
    );
    accept(&journal, over);
    finish(&journal, over);
    assert_eq!(journal.stop(over, &stop).unwrap(), StopResult::Over);
    assert_eq!(journal.next_ready().unwrap(), None);
}

#[test]
fn the_outcome_says_what_is_current_in_the_same_breath() {
    let journal = Bench::new().open();
    let a = id();
    accept(&journal, a);
    let release = Release {
        version: "1".into(),
        digest: "d".into(),
        ..Release::default()
    };
    let change = ReleaseChange {
        name: "app".into(),
        release: Some(release),
    };
    journal
        .finish(a, succeeded(), Some(change), String::new())
        .unwrap();
    let outcome = journal.get(a).unwrap().unwrap().outcome.unwrap();
    assert_eq!(outcome.active.unwrap().digest, "d");
    assert_eq!(journal.releases().unwrap().len(), 1);
}

#[test]
fn a_second_agent_is_kept_out() {
    let bench = Bench::new();
    let _journal = bench.open();
    let second = Journal::open(&bench.path()).map(drop);
    assert!(matches!(second, Err(JournalError::InUse(_))), "{second:?}");
}

#[test]
fn a_damaged_journal_is_set_aside_and_replaced() {
    let bench = Bench::new();
    let mut ids = vec![{
        let journal = bench.open();
        for _ in 0..50 {
            accept(&journal, id());
        }
        journal.id()
    }];
    let whole = fs::read(bench.path()).unwrap();
    let garbage = vec![0xa5; whole.len()];
    let torn = whole[..whole.len() / 2].to_vec();
    let mut flipped = whole;
    // The first page is the header; behind it are the tables.
    for byte in &mut flipped[4096..] {
        *byte ^= 0x55;
    }
    for (n, bytes) in [garbage, torn, flipped].into_iter().enumerate() {
        fs::write(bench.path(), bytes).unwrap();
        let (journal, aside) = Journal::open(&bench.path()).unwrap();
        let aside = aside.expect("damage goes unnoticed");
        assert!(
            aside.ends_with(format!("journal.redb.corrupt-{}", n + 1)),
            "{aside:?}"
        );
        assert!(!ids.contains(&journal.id()));
        assert!(journal.live().unwrap().is_empty());
        ids.push(journal.id());
    }
}

#[test]
fn a_copy_taken_at_any_commit_is_whole() {
    // A copy of the file between two commits is what a power cut leaves.
    let bench = Bench::new();
    let journal = bench.open();
    let ids: Vec<AttemptId> = (0..8).map(|_| id()).collect();
    for (n, a) in ids.iter().enumerate() {
        accept(&journal, *a);
        let cut = Bench::new();
        fs::copy(bench.path(), cut.path()).unwrap();
        let after = cut.open();
        assert_eq!(after.live().unwrap().len(), n + 1);
    }
}

#[test]
fn a_configuration_survives_reopening() {
    let bench = Bench::new();
    let wanted = v1::Configure {
        revision: 7,
        ..v1::Configure::default()
    };
    assert_eq!(bench.open().configuration().unwrap(), None);
    bench.open().configure(&wanted).unwrap();
    assert_eq!(bench.open().configuration().unwrap(), Some(wanted));
}
