use super::*;
use crate::domain::device::DiskFault;
use kernex_proto::{
    ids::{JournalId, TargetId},
    v1::{self, device_session_response::Message},
};
use proptest::prelude::*;
use tokio::sync::mpsc;

fn handle(device: DeviceId, epoch: u64) -> Arc<SessionHandle> {
    SessionHandle::new(device, epoch, JournalId::generate(), mpsc::channel(1).0)
}

#[test]
fn a_newer_session_ends_the_older_and_an_older_one_is_refused() {
    let registry = Registry::default();
    let device = DeviceId::generate();
    let first = handle(device, 1);
    assert!(registry.insert(Arc::clone(&first)));
    assert!(registry.insert(handle(device, 2)));
    assert_eq!(first.ended.get(), Some(&EndReason::Replaced));
    assert!(!registry.insert(handle(device, 1)));
    assert!(!registry.remove(device, 1));
    assert!(registry.remove(device, 2));
    assert!(registry.is_empty());
}

#[test]
fn each_command_is_claimed_once_per_session() {
    let registry = Registry::default();
    let device = DeviceId::generate();
    let attempt = AttemptId {
        target: TargetId::generate(),
        number: 1,
    };
    registry.insert(handle(device, 1));
    let what = Pushed::Deploy(attempt);
    assert!(
        registry
            .claim_push(device, 1, what, Duration::ZERO)
            .is_some()
    );
    assert!(
        registry
            .claim_push(device, 1, what, Duration::ZERO)
            .is_none()
    );
    assert!(
        registry
            .claim_push(device, 1, Pushed::Stop(attempt, false), Duration::ZERO)
            .is_some()
    );
    assert!(
        registry
            .claim_push(device, 2, what, Duration::ZERO)
            .is_none()
    );
    registry.insert(handle(device, 2));
    assert!(
        registry
            .claim_push(device, 2, what, Duration::ZERO)
            .is_some()
    );
}

#[tokio::test(start_paused = true)]
async fn a_command_nobody_heard_is_claimed_once_more() {
    let registry = Registry::default();
    let device = DeviceId::generate();
    let attempt = AttemptId {
        target: TargetId::generate(),
        number: 1,
    };
    registry.insert(handle(device, 1));
    let claim = || registry.claim_push(device, 1, Pushed::Deploy(attempt), Duration::ZERO);
    assert!(claim().is_some());
    tokio::time::advance(UNHEARD / 2).await;
    assert!(claim().is_none());
    tokio::time::advance(UNHEARD / 2).await;
    assert!(claim().is_some());
    assert!(claim().is_none(), "and not at once again");
    let waited = registry.waited_for_push(device, attempt);
    assert_eq!(waited, Some(UNHEARD), "it has been due all the time");
}

#[tokio::test(start_paused = true)]
async fn what_has_ended_is_not_claimed_by_whoever_read_its_row_before() {
    let registry = Registry::default();
    let device = DeviceId::generate();
    let attempt = || AttemptId {
        target: TargetId::generate(),
        number: 1,
    };
    let (here, earlier) = (attempt(), attempt());
    registry.insert(handle(device, 1));
    let claim = |what| {
        registry
            .claim_push(device, 1, what, Duration::ZERO)
            .is_some()
    };
    for what in [Pushed::Deploy(here), Pushed::Run(here, 2)] {
        assert!(claim(what));
    }
    registry.attempt_closed(device, here);
    registry.attempt_closed(device, earlier);
    for what in [
        Pushed::Deploy(here),
        Pushed::Run(here, 2),
        Pushed::Deploy(earlier),
    ] {
        assert!(!claim(what), "{what:?}");
    }
    tokio::time::advance(UNHEARD).await;
    registry.attempt_closed(device, attempt());
    let kept = registry
        .sessions
        .lock()
        .get(&device)
        .map(|entry| entry.pushed.len());
    assert_eq!(kept, Some(1), "a long session does not collect them");
}

#[test]
fn a_full_queue_ends_the_session_by_name() {
    let (outbound, _queue) = mpsc::channel(OUTBOUND_QUEUE);
    let session = SessionHandle::new(DeviceId::generate(), 1, JournalId::generate(), outbound);
    let ack = || Message::HeartbeatAck(v1::HeartbeatAck { seq: 1 });
    for _ in 0..OUTBOUND_QUEUE {
        assert!(session.send(ack()));
    }
    assert!(!session.send(ack()));
    assert_eq!(session.ended.get(), Some(&EndReason::SlowConsumer));
}

proptest! {
    #[test]
    fn the_newest_epoch_wins_in_any_order(steps in prop::collection::vec((0usize..3, 1u64..9, any::<bool>()), 0..40)) {
        let registry = Registry::default();
        let devices: Vec<_> = (0..3).map(|_| DeviceId::generate()).collect();
        let mut newest = [0u64; 3];
        for (index, epoch, remove) in steps {
            let device = devices[index];
            if remove {
                let was = registry.remove(device, epoch);
                prop_assert_eq!(was, newest[index] == epoch);
                if was { newest[index] = 0; }
            } else {
                let taken = registry.insert(handle(device, epoch));
                prop_assert_eq!(taken, epoch > newest[index]);
                newest[index] = newest[index].max(epoch);
            }
            prop_assert_eq!(registry.check_invariants(), Ok(()));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_command_goes_where_it_cannot_be_written_down() {
    let (outbound, mut inbound) = mpsc::channel(2);
    let ailing = SessionHandle::new(DeviceId::generate(), 1, JournalId::generate(), outbound);
    ailing.set_ailing();
    let registry = Registry::default();
    assert!(registry.insert(Arc::clone(&ailing)));
    assert!(!ailing.send(Message::Command(v1::Command::default())));
    let attempt = AttemptId {
        target: TargetId::generate(),
        number: 1,
    };
    let claimed = registry.claim_push(ailing.device, 1, Pushed::Deploy(attempt), Duration::ZERO);
    assert!(claimed.is_none());
    assert!(ailing.send(Message::HeartbeatAck(v1::HeartbeatAck { seq: 1 })));
    assert!(inbound.recv().await.is_some(), "all else goes");
    assert!(ailing.ended.get().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_is_now_this_and_now_that_is_noted_now_and_then() {
    let handle = handle(DeviceId::generate(), 1);
    let full = Some(DiskFault::NoSpace);
    assert!(!handle.should_record_disk_fault(None));
    assert!(handle.should_record_disk_fault(full));
    handle.set_disk_fault(full);
    assert_eq!(handle.disk_fault(), full);
    assert!(
        !handle.should_record_disk_fault(None),
        "that was a moment ago"
    );
    tokio::time::advance(Duration::from_secs(10)).await;
    assert!(handle.should_record_disk_fault(None));
}
