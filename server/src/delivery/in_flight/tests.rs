use kernex_proto::ids::TargetId;

use super::*;

fn attempt() -> AttemptId {
    AttemptId {
        target: TargetId::generate(),
        number: 1,
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_push_says_when_they_are_written_and_answers_leave_nothing_to_write() {
    let flight = InFlight::default();
    let never = tokio::time::timeout(WRITE_WITHIN * 100, flight.wait_for_unwritten()).await;
    assert!(never.is_err(), "there is nothing to write");
    let (device, first, second) = (DeviceId::generate(), attempt(), attempt());
    let begun = Instant::now();
    assert!(flight.record_push(device, first, 1, 0));
    tokio::time::advance(WRITE_WITHIN / 2).await;
    assert!(flight.record_push(device, second, 1, 0));
    flight.wait_for_unwritten().await;
    assert_eq!(begun.elapsed(), WRITE_WITHIN);
    flight.mark_answered(first);
    assert_eq!(flight.unwritten(), [(second, 1)]);
    assert!(
        flight.record_push(device, second, 2, 0),
        "in a newer session"
    );
    flight.mark_written(&[(second, 1)]);
    assert_eq!(flight.unwritten(), [(second, 2)], "which is another push");
    flight.undo_push(second, 2);
    assert_eq!(flight.unwritten(), []);
}

#[tokio::test]
async fn a_push_and_a_decision_about_it_exclude_each_other_and_nothing_else() {
    let flight = Arc::new(InFlight::default());
    let (device, one, other) = (DeviceId::generate(), attempt(), attempt());
    let before = flight.moment();
    // Pushed before the decision, which is told of it.
    assert!(flight.record_push(device, one, 7, before));
    let decision = flight.begin_decision();
    assert_eq!(decision.hold([one]), [(one, 7)]);
    assert_eq!(
        decision.hold([one]),
        [(one, 7)],
        "also when the transaction runs again"
    );
    decision.note_pushes(vec![(one, 7)]);
    decision.mark_committed();
    assert_eq!(flight.unwritten(), [], "it is in the rows now");
    // Held: only this attempt waits, and its device is looked at again once it is let go.
    assert!(!flight.record_push(device, one, 7, flight.moment()));
    assert!(flight.record_push(device, other, 7, before));
    let second = flight.begin_decision();
    let _ = second.hold([one]);
    drop(decision);
    assert!(
        !flight.may_push(device, one, flight.moment()),
        "somebody else holds it"
    );
    drop(second);
    assert_eq!(flight.wait_for_refused().await, HashSet::from([device]));
    // Let go: a command whose row was read before that is not pushed. One that is read now is.
    assert!(!flight.record_push(device, one, 7, before));
    assert_eq!(flight.wait_for_refused().await, HashSet::from([device]));
    assert!(flight.record_push(device, one, 7, flight.moment()));
}

#[tokio::test(start_paused = true)]
async fn marks_do_not_pile_up_and_what_was_read_before_them_is_read_again() {
    let flight = Arc::new(InFlight::default());
    let device = DeviceId::generate();
    let old = flight.moment();
    let first = flight.begin_decision();
    let _ = first.hold([attempt(), attempt()]);
    drop(first);
    tokio::time::advance(MARKS_KEPT + PRUNE_EVERY).await;
    let second = flight.begin_decision();
    let _ = second.hold([attempt()]);
    drop(second);
    assert_eq!(flight.table.lock().marks.len(), 1);
    assert!(
        !flight.may_push(device, attempt(), old),
        "nobody knows any more"
    );
    assert_eq!(flight.wait_for_refused().await, HashSet::from([device]));
    assert!(flight.may_push(device, attempt(), flight.moment()));
}
