//! Where an attempt continues, by what was written down about it.

use super::*;

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
