//! The journal over crashes, damage and repetition. Reopening without closing is what a crash looks
//! like to it.

use std::fs;

use kernex_proto::ids::TargetId;

use super::*;

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

fn run(number: u32) -> v1::Command {
    v1::Command {
        run: number,
        ..deploy()
    }
}

#[test]
fn a_deferred_attempt_waits_for_a_later_run_and_takes_each_once() {
    let bench = Bench::new();
    let id = id();
    let journal = bench.open();
    accept(&journal, id);
    journal.start(id, Started::default()).unwrap();
    let deferred = |run| v1::Deferred {
        run,
        ..v1::Deferred::default()
    };
    assert!(journal.defer(id, deferred(1), String::new()).unwrap());
    assert_eq!(journal.next_ready().unwrap(), None);
    drop(journal);
    let journal = bench.open();
    assert_eq!(journal.deferred().unwrap().len(), 1);
    let seq = journal.deferred().unwrap()[0].seq;
    assert_eq!(
        journal.acknowledge(seq, 0).unwrap(),
        AckResult::Deferred(id)
    );
    assert_eq!(journal.unacknowledged().unwrap().len(), 1, "the acceptance");
    assert_eq!(journal.deferred().unwrap().len(), 1, "told in each session");
    let take = |number| journal.accept(id, &run(number), BootInstant::default());
    for (number, acceptance) in [
        (0, Acceptance::Known),
        (1, Acceptance::Known),
        (2, Acceptance::New),
        (2, Acceptance::Known),
    ] {
        assert_eq!(take(number).unwrap(), acceptance, "run {number}");
    }
    assert_eq!(journal.next_ready().unwrap(), Some(id));
    assert_eq!(journal.get(id).unwrap().unwrap().run(), 2);
    // A stop while it waits ends it at once, and no run is taken after that.
    journal.start(id, Started::default()).unwrap();
    assert!(journal.defer(id, deferred(2), String::new()).unwrap());
    assert_eq!(journal.stop(id, &deploy()).unwrap(), StopResult::Cancelled);
    assert_eq!(take(3).unwrap(), Acceptance::Known);
    assert!(journal.deferred().unwrap().is_empty());
}

#[test]
fn each_stage_follows_from_what_was_written_down() {
    use v1::Step::{Activate, Health, PostHook, PreHook, Rollback, Script};
    let started = |step: v1::Step| {
        Some(Started {
            step: step.into(),
            ..Started::default()
        })
    };
    let failing = Some(v1::Outcome::default());
    let restarting = Some(Restarting::default());
    let deferred = Some(v1::Deferred::default());
    let going_back = Stage::GoingBack(v1::Outcome::default());
    let restarted = Stage::Restarted(Restarting::default());
    let record = |started, failing, restarting, deferred| Record {
        started,
        failing,
        restarting,
        deferred,
        ..Record::default()
    };
    let table = [
        (record(None, None, None, None), Stage::Fresh),
        (record(None, None, None, deferred), Stage::Deferred),
        (record(started(PreHook), None, None, None), Stage::CutOff),
        (record(started(Script), None, None, None), Stage::CutOff),
        (record(started(Health), None, None, None), Stage::CutOff),
        (
            record(started(Script), None, restarting.clone(), None),
            restarted.clone(),
        ),
        (
            record(started(Activate), None, restarting.clone(), None),
            restarted,
        ),
        // What follows the restart has begun: that is not repeated.
        (
            record(started(PostHook), None, restarting.clone(), None),
            Stage::CutOff,
        ),
        (
            record(started(Health), failing.clone(), None, None),
            going_back.clone(),
        ),
        (
            record(started(Activate), failing.clone(), restarting, None),
            going_back,
        ),
        (
            record(started(Rollback), failing, None, None),
            Stage::CutOff,
        ),
    ];
    for (record, stage) in table {
        assert_eq!(record.stage(), Some(stage), "{record:?}");
    }
    let over = Record {
        outcome: Some(v1::Outcome::default()),
        ..Record::default()
    };
    assert_eq!(over.stage(), None);
}

#[test]
fn a_stop_keeps_every_step_from_beginning_but_not_going_back() {
    let bench = Bench::new();
    let journal = bench.open();
    let id = id();
    accept(&journal, id);
    let begin = |step: v1::Step| {
        let started = Started {
            step: step.into(),
            ..Started::default()
        };
        journal.start(id, started).unwrap()
    };
    assert!(begin(v1::Step::Script));
    assert_eq!(journal.stop(id, &deploy()).unwrap(), StopResult::UnderWay);
    assert!(!begin(v1::Step::PostHook));
    assert!(begin(v1::Step::Rollback));
    finish(&journal, id);
    assert!(!begin(v1::Step::Rollback));
}

#[test]
fn what_comes_next_is_what_has_begun_and_then_the_oldest() {
    let bench = Bench::new();
    let journal = bench.open();
    let (old, begun) = (id(), id());
    accept(&journal, old);
    accept(&journal, begun);
    assert_eq!(journal.next_ready().unwrap(), Some(old));
    journal.start(begun, Started::default()).unwrap();
    journal.note_failure(begun, v1::Outcome::default()).unwrap();
    assert_eq!(journal.next_ready().unwrap(), Some(begun));
    // What failed first stays.
    journal.note_failure(begun, succeeded()).unwrap();
    let kept = journal.get(begun).unwrap().unwrap().failing;
    assert_eq!(kept, Some(v1::Outcome::default()));
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
