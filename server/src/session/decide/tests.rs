//! What a session does about each thing that it waits for.

use kernex_proto::ids::TargetId;
use tonic::Code;

use super::*;
use crate::revocations::Cause;

fn says(message: Up) -> Decision {
    decide(Wake::Message(DeviceSessionRequest {
        message: Some(message),
    }))
}

fn reference() -> v1::AttemptRef {
    AttemptId {
        target: TargetId::generate(),
        number: 1,
    }
    .into()
}

fn code(decision: &Decision) -> Option<Code> {
    match decision {
        Decision::Finish(status) => status.as_ref().map(Status::code),
        _ => None,
    }
}

#[test]
fn what_makes_no_sense_ends_the_session_as_invalid() {
    let report = |attempt, seq, event| {
        Up::Report(v1::Report {
            attempt,
            seq,
            event,
            ..v1::Report::default()
        })
    };
    let accepted = Some(Event::Accepted(v1::Accepted {}));
    let nowhere = v1::AttemptRef {
        target_id: "x".into(),
        attempt: 1,
    };
    for message in [
        Up::Hello(v1::Hello::default()),
        Up::Ready(v1::Ready { epoch: 1 }),
        Up::Heartbeat(v1::Heartbeat::default()),
        Up::Heartbeat(v1::Heartbeat {
            vital_signs: Some(v1::VitalSigns {
                cpu_percent: f64::NAN,
                ..Default::default()
            }),
            ..Default::default()
        }),
        report(None, 1, accepted.clone()),
        report(Some(nowhere), 1, accepted.clone()),
        report(Some(reference()), 0, accepted),
    ] {
        let decision = says(message);
        assert_eq!(code(&decision), Some(Code::InvalidArgument), "{decision:?}");
    }
}

#[test]
fn what_is_not_known_is_answered_and_the_session_stays() {
    let unknown = decide(Wake::Message(DeviceSessionRequest { message: None }));
    assert!(
        matches!(&unknown, Decision::Reply(replies) if matches!(replies[..], [Down::Unsupported(_)])),
        "{unknown:?}"
    );
    let later = says(Up::Report(v1::Report {
        attempt: Some(reference()),
        seq: 7,
        ..Default::default()
    }));
    assert!(
        matches!(&later, Decision::Reply(replies) if matches!(replies[..], [Down::Unsupported(_), Down::Ack(v1::Ack { seq: 7, .. })])),
        "{later:?}"
    );
}

#[test]
fn who_cannot_write_anything_down_may_say_how_it_is_and_no_more() {
    let says = |message| decide_ailing(Wake::Message(DeviceSessionRequest { message }));
    let beat = v1::Heartbeat {
        vital_signs: Some(v1::VitalSigns::default()),
        disk_fault: v1::DiskFault::NoSpace.into(),
        ..Default::default()
    };
    let beat = says(Some(Up::Heartbeat(beat)));
    assert!(matches!(beat, Decision::Heartbeat { .. }), "{beat:?}");
    assert!(matches!(says(None), Decision::Reply(_)));
    for message in [
        Up::Ready(v1::Ready { epoch: 1 }),
        Up::Hello(v1::Hello::default()),
        Up::Report(v1::Report::default()),
        Up::Planned(v1::Planned::default()),
        Up::Configured(v1::Configured::default()),
        Up::Unsupported(v1::Unsupported::default()),
    ] {
        let decision = says(Some(message));
        assert_eq!(code(&decision), Some(Code::InvalidArgument), "{decision:?}");
    }
    assert_eq!(
        code(&decide_ailing(Wake::Ended(EndReason::Replaced))),
        Some(Code::Aborted)
    );
}

#[test]
fn a_connection_that_broke_is_told_from_a_device_that_went_silent() {
    let (at_once, ping) = (Duration::from_secs(1), PING_LIMIT);
    for (reason, quiet, expected) in [
        (AwayReason::Cut, at_once, AwayReason::Cut),
        (AwayReason::Cut, ping, AwayReason::Silent),
        (AwayReason::Cut, 3 * ping, AwayReason::Silent),
        (AwayReason::Closed, 3 * ping, AwayReason::Closed),
        (AwayReason::Drained, 3 * ping, AwayReason::Drained),
        (AwayReason::Silent, at_once, AwayReason::Silent),
    ] {
        let found = told_apart(reason, quiet);
        assert_eq!(found, expected, "{reason} after {quiet:?}");
    }
    let unfinished = crate::error::not_ended();
    assert_eq!(leaving(&Wake::Broken(unfinished)), AwayReason::Cut);
}

#[test]
fn each_end_has_its_status() {
    let wait = Duration::from_millis(300);
    let away = |why| leaving(&Wake::Ended(why));
    assert_eq!(away(EndReason::Replaced), AwayReason::Replaced);
    assert_eq!(away(EndReason::SlowConsumer), AwayReason::SlowConsumer);
    assert_eq!(away(EndReason::Unrecorded), AwayReason::Unrecorded);
    assert_eq!(
        away(EndReason::Revoked(Cause::Replaced)),
        AwayReason::Revoked
    );
    assert_eq!(leaving(&Wake::Closed), AwayReason::Closed);
    assert_eq!(leaving(&Wake::Silent), AwayReason::Silent);
    let lost = Wake::Broken(Status::unavailable("gone"));
    assert_eq!(leaving(&lost), AwayReason::Cut);
    let garbled = Wake::Broken(Status::internal("failed to decode"));
    assert_eq!(leaving(&garbled), AwayReason::Malformed);
    let end = |why| decide(Wake::Ended(why));
    assert_eq!(code(&end(EndReason::Replaced)), Some(Code::Aborted));
    assert_eq!(
        code(&end(EndReason::SlowConsumer)),
        Some(Code::ResourceExhausted)
    );
    for cause in [Cause::Deleted, Cause::Replaced] {
        let revoked = end(EndReason::Revoked(cause));
        assert_eq!(code(&revoked), Some(Code::Unauthenticated));
    }
    let drain = end(EndReason::Drain {
        reconnect_after: wait,
    });
    assert!(matches!(drain, Decision::Drain(after) if after == wait));
    assert!(matches!(decide(Wake::Closed), Decision::Finish(None)));
    let lost = decide(Wake::Broken(Status::unavailable("gone")));
    assert!(matches!(lost, Decision::Finish(None)));
    let garbled = decide(Wake::Broken(Status::internal("failed to decode")));
    assert_eq!(code(&garbled), Some(Code::InvalidArgument));
}
