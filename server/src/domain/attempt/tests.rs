//! A table of all transitions that matter, and properties over any sequence of events.

use super::*;
use proptest::prelude::*;

const NOW: Timestamp = Timestamp(1_000_000);
const EXECUTION: Duration = Duration::from_secs(60);
const OPENED: Event = Event::Fact(Fact::Opened {
    deadline: Timestamp(3_000_000),
});

fn attempt(state: State) -> Attempt {
    let mut attempt = Attempt::new(state, Timestamp(2_000_000), EXECUTION);
    if matches!(state, State::Accepted | State::Running) {
        attempt = attempt.accept(NOW);
        attempt.state = state;
    }
    if !state.is_open() {
        attempt.closed_at = Some(NOW);
        attempt.answered = matches!(state, State::Succeeded);
        attempt.reason = (state == State::Failed).then_some(FailureReason::JournalLost);
    }
    attempt
}

fn after(state: State, event: Event) -> Option<State> {
    apply(&attempt(state), event, NOW)
        .changed()
        .map(|next| next.state)
}

#[test]
fn states_follow_the_table() {
    use State as S;
    let progress = Event::Fact(Fact::Progress {
        step: Step::Script,
        bytes: (1, 2),
        stopped: false,
    });
    let failed = Event::Fact(Fact::Outcome(Ending::Failed(FailureReason::ScriptFailed)));
    let table = [
        (S::Held, OPENED, Some(S::Pending)),
        (S::Pending, OPENED, None),
        (S::Pending, Event::Fact(Fact::Sent), Some(S::Sent)),
        (S::Running, Event::Fact(Fact::Sent), None),
        (S::Sent, Event::Fact(Fact::Accepted), Some(S::Accepted)),
        (S::Pending, Event::Fact(Fact::Accepted), Some(S::Accepted)),
        (S::Running, Event::Fact(Fact::Accepted), None),
        (S::Pending, progress, Some(S::Running)),
        (S::Accepted, progress, Some(S::Running)),
        (
            S::Sent,
            Event::Fact(Fact::Outcome(Ending::Succeeded)),
            Some(S::Succeeded),
        ),
        (S::Running, failed, Some(S::Failed)),
        (S::Succeeded, failed, None),
        (S::Held, Event::Close(Closing::Cancel), Some(S::Cancelled)),
        (
            S::Pending,
            Event::Close(Closing::Cancel),
            Some(S::Cancelled),
        ),
        (S::Sent, Event::Close(Closing::Cancel), Some(S::Sent)),
        (S::Running, Event::Close(Closing::Cancel), Some(S::Running)),
        (
            S::Pending,
            Event::Close(Closing::Supersede),
            Some(S::Superseded),
        ),
        (S::Sent, Event::Close(Closing::Supersede), None),
        (S::Accepted, Event::Fact(Fact::NotHeld), Some(S::Failed)),
        (S::Sent, Event::Fact(Fact::NotHeld), Some(S::Sent)),
        (S::Pending, Event::Fact(Fact::NotHeld), None),
        (S::Sent, Event::Fact(Fact::Held), Some(S::Accepted)),
        (S::Sent, Event::Fact(Fact::HeldEnded), Some(S::Accepted)),
        (
            S::Running,
            Event::Close(Closing::DeviceGone),
            Some(S::Cancelled),
        ),
        (S::Pending, Event::Close(Closing::Tick), None),
        (S::Pending, Event::Close(Closing::Penalise), Some(S::Failed)),
        (S::Sent, Event::Close(Closing::Penalise), None),
        (S::Held, Event::Close(Closing::Overdue), Some(S::Expired)),
        (S::Running, Event::Close(Closing::Overdue), Some(S::Expired)),
        (S::Succeeded, Event::Close(Closing::Overdue), None),
    ];
    for (state, event, expected) in table {
        assert_eq!(after(state, event), expected, "{state} {event:?}");
    }
}

#[test]
fn a_late_outcome_is_kept_once_and_changes_no_state() {
    let expired = attempt(State::Expired);
    let Effect::Late(late) = apply(&expired, Event::Fact(Fact::Outcome(Ending::Succeeded)), NOW)
    else {
        panic!("an outcome after expiry is late");
    };
    assert_eq!(
        (late.state, late.late),
        (State::Expired, Some(Ending::Succeeded))
    );
    let again = apply(&late, Event::Fact(Fact::Outcome(Ending::Cancelled)), NOW);
    assert_eq!(again, Effect::Unchanged);
}

#[test]
fn what_was_pushed_stays_unresolved_when_it_expires() {
    let late = Timestamp(i64::MAX);
    let states = [State::Pending, State::Sent, State::Running];
    let events = [
        (Event::Close(Closing::Tick), late),
        (Event::Close(Closing::Overdue), Timestamp(0)),
    ];
    for (state, (event, at)) in states.into_iter().flat_map(|s| events.map(|e| (s, e))) {
        let expired = apply(&attempt(state), event, at).changed().unwrap();
        assert_eq!(expired.state, State::Expired);
        let out_there = state != State::Pending;
        assert_eq!(
            (expired.unresolved, expired.stop_requested),
            (out_there, out_there)
        );
        let gone = apply(&expired, Event::Fact(Fact::NotHeld), late).changed();
        assert!(gone.is_none_or(|gone| !gone.unresolved));
    }
}

#[test]
fn an_attempt_expires_at_its_deadline_and_not_a_microsecond_before() {
    let delivery = Timestamp(2_000_000);
    let execution = NOW.plus(EXECUTION);
    for (state, deadline) in [
        (State::Held, delivery),
        (State::Sent, delivery),
        (State::Accepted, execution),
        (State::Running, execution),
    ] {
        let tick = |at| apply(&attempt(state), Closing::Tick, at).changed();
        assert_eq!(tick(Timestamp(deadline.0 - 1)), None, "{state:?}");
        let expired = tick(deadline).map(|next| next.state);
        assert_eq!(expired, Some(State::Expired), "{state:?}");
    }
}

#[test]
fn what_was_pushed_and_never_taken_closes_as_if_it_had_never_been_pushed() {
    let untaken = apply(&attempt(State::Sent), Event::Fact(Fact::NotHeld), NOW)
        .changed()
        .unwrap();
    assert!(untaken.state == State::Sent && untaken.untaken && untaken.unresolved);
    assert_eq!(
        apply(&untaken, Event::Fact(Fact::NotHeld), NOW),
        Effect::Unchanged,
        "nothing new"
    );
    for (event, state) in [
        (Event::Close(Closing::Cancel), State::Cancelled),
        (Event::Close(Closing::Supersede), State::Superseded),
        (Event::Close(Closing::Overdue), State::Expired),
    ] {
        let closed = apply(&untaken, event, NOW).changed().unwrap();
        assert_eq!(
            (closed.state, closed.unresolved),
            (state, false),
            "{event:?}"
        );
        assert!(
            !closed.stop_requested,
            "{event:?}: nobody is there to answer"
        );
        // It is pushed once more, so it may have arrived.
        let pushed = apply(&untaken, Event::Fact(Fact::Sent), NOW)
            .changed()
            .unwrap();
        assert!(!pushed.untaken);
        let left = apply(&pushed, event, NOW).changed();
        assert!(left.is_none_or(|left| left.unresolved), "{event:?}");
    }
    // Nobody has to wait for the answer to the stop.
    let stopping = apply(&attempt(State::Sent), Event::Close(Closing::Cancel), NOW).changed();
    let never = apply(&stopping.unwrap(), Event::Fact(Fact::NotHeld), NOW).changed();
    let never = never.unwrap();
    assert_eq!((never.state, never.unresolved), (State::Cancelled, false));
}

#[test]
fn a_push_noted_after_the_cancel_calls_the_attempt_back() {
    let cancelled = attempt(State::Cancelled);
    for event in [
        Event::Fact(Fact::Sent),
        Event::Fact(Fact::Accepted),
        Event::Fact(Fact::Held),
    ] {
        let Effect::Late(called) = apply(&cancelled, event, NOW) else {
            panic!("{event:?} must call back");
        };
        assert_eq!(called.state, State::Cancelled);
        assert!(called.unresolved && called.stop_requested);
    }
}

#[test]
fn stopped_is_an_answer_and_not_the_end() {
    let at = |step, stopped| {
        Event::Fact(Fact::Progress {
            step,
            bytes: (0, 0),
            stopped,
        })
    };
    let then = |before: &Attempt, event| apply(before, event, NOW).changed();
    let asked = then(&attempt(State::Running), Event::Close(Closing::Cancel)).unwrap();
    assert!(asked.stop_requested && !asked.stop_going_back && !asked.is_stopped());
    let stopped = then(&asked, at(Step::Script, true)).unwrap();
    assert!(stopped.is_stopped() && stopped.unresolved && stopped.state == State::Running);
    // A report from before the stop that is written after it takes nothing back.
    assert!(then(&stopped, at(Step::Unpack, false)).unwrap().stopped);
    // Nothing shows that the device goes back, so another halt has nothing more to end.
    assert_eq!(
        apply(&stopped, Event::Close(Closing::Halt), NOW),
        Effect::Unchanged
    );
    let back = then(&stopped, at(Step::Rollback, true)).unwrap();
    assert_eq!(
        apply(&back, Event::Close(Closing::Cancel), NOW),
        Effect::Unchanged
    );
    let halted = then(&back, Event::Close(Closing::Halt)).unwrap();
    assert!(halted.stop_going_back && !halted.is_stopped());
    assert_eq!(
        apply(&halted, Event::Close(Closing::Halt), NOW),
        Effect::Unchanged
    );
    let failed = Event::Fact(Fact::Outcome(Ending::Failed(FailureReason::RollbackFailed)));
    let over = then(&halted, failed).unwrap();
    assert!(over.is_stopped() && !over.stop_going_back && !over.unresolved);

    // It failed by itself and goes back. A halt ends that at once, and a cancellation does not.
    let back = then(&attempt(State::Running), at(Step::Rollback, false)).unwrap();
    assert!(
        !then(&back, Event::Close(Closing::Cancel))
            .unwrap()
            .stop_going_back
    );
    assert!(
        then(&back, Event::Close(Closing::Halt))
            .unwrap()
            .stop_going_back
    );

    // An attempt that was closed here.
    let expired = then(&attempt(State::Running), Event::Close(Closing::Overdue)).unwrap();
    let stopped = apply(&expired, at(Step::Rollback, true), NOW);
    assert!(matches!(&stopped, Effect::Late(late) if late.is_stopped() && late.unresolved));
    let halted = then(&stopped.changed().unwrap(), Event::Close(Closing::Halt)).unwrap();
    assert!(halted.stop_going_back && halted.state == State::Expired);
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(OPENED),
        Just(Event::Fact(Fact::Sent)),
        Just(Event::Fact(Fact::Accepted)),
        (0..Step::ALL.len(), any::<u64>(), any::<bool>()).prop_map(|(step, done, stopped)| {
            Event::Fact(Fact::Progress {
                step: Step::ALL[step],
                bytes: (done, 0),
                stopped,
            })
        }),
        Just(Event::Fact(Fact::Outcome(Ending::Succeeded))),
        Just(Event::Fact(Fact::Outcome(Ending::Failed(
            FailureReason::Internal
        )))),
        Just(Event::Fact(Fact::Outcome(Ending::Cancelled))),
        Just(Event::Close(Closing::Cancel)),
        Just(Event::Close(Closing::Halt)),
        Just(Event::Close(Closing::Supersede)),
        Just(Event::Close(Closing::DeviceGone)),
        Just(Event::Close(Closing::Penalise)),
        Just(Event::Close(Closing::Overdue)),
        Just(Event::Close(Closing::Tick)),
        Just(Event::Fact(Fact::Held)),
        Just(Event::Fact(Fact::HeldEnded)),
        Just(Event::Fact(Fact::NotHeld)),
    ]
}

/// How far along a state is. Closed states are all the end.
fn rank(state: State) -> u8 {
    match state {
        State::Held => 0,
        State::Pending => 1,
        State::Sent => 2,
        State::Accepted => 3,
        State::Running => 4,
        _ => 5,
    }
}

proptest! {
    #[test]
    fn nothing_goes_back(events in prop::collection::vec((any_event(), 0i64..200_000_000), 0..40)) {
        let mut current = Attempt::new(State::Held, Timestamp(100_000_000), EXECUTION);
        let mut now = Timestamp(0);
        for (event, step) in events {
            now = Timestamp(now.0 + step);
            let Some(next) = apply(&current, event, now).changed() else { continue };
            prop_assert!(rank(next.state) >= rank(current.state));
            if !current.state.is_open() {
                prop_assert_eq!(next.state, current.state);
                prop_assert_eq!(next.reason, current.reason);
                prop_assert_eq!(next.closed_at, current.closed_at);
            }
            prop_assert!(current.late.is_none() || next.late == current.late);
            prop_assert!(!next.state.is_open() || next.unresolved);
            prop_assert!(!next.stop_requested || next.unresolved);
            prop_assert!(!next.untaken || next.state == State::Sent);
            prop_assert!(!next.stop_going_back || next.stop_requested);
            prop_assert!(!current.stopped || next.stopped);
            prop_assert!(!next.answered || (!next.state.is_open() && !next.unresolved));
            prop_assert!(!current.answered || next.answered);
            prop_assert_eq!(next.state.is_open(), next.closed_at.is_none());
            prop_assert_eq!(next.state == State::Failed, next.reason.is_some());
            current = next;
        }
    }
}
