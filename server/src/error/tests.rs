use kernex_proto::archive::ArchiveError;

use super::*;
use crate::{delivery::registry::EndReason, session::handshake::HandshakeError, store::StoreError};

fn reason(status: &Status) -> Reason {
    let details = status.get_error_details();
    let info = details.error_info().expect("ErrorInfo");
    assert_eq!(info.domain, DOMAIN);
    Reason::parse(&info.reason).expect("a known reason")
}

#[test]
fn the_table_of_store_errors() {
    let id = || "x".to_owned();
    let why = || "because".to_owned();
    let (kind, revision) = ("device", 3);
    let table: Vec<(StoreError, Code, Reason)> = vec![
        (
            StoreError::Unavailable(why()),
            Code::Unavailable,
            Reason::StoreUnavailable,
        ),
        (
            StoreError::WrongState {
                kind,
                id: id(),
                why: why(),
            },
            Code::FailedPrecondition,
            Reason::WrongState,
        ),
        (
            StoreError::NotFound { kind, id: id() },
            Code::NotFound,
            Reason::NotFound,
        ),
        (
            StoreError::AlreadyExists {
                kind,
                id: id(),
                why: why(),
            },
            Code::AlreadyExists,
            Reason::AlreadyExists,
        ),
        (
            StoreError::Conflict {
                kind,
                id: id(),
                revision,
            },
            Code::Aborted,
            Reason::Conflict,
        ),
        (
            StoreError::CopyGivenUp(id()),
            Code::FailedPrecondition,
            Reason::CopyGivenUp,
        ),
        (
            StoreError::NotConflicted(id()),
            Code::FailedPrecondition,
            Reason::NotConflicted,
        ),
        (
            StoreError::InUse {
                kind,
                id: id(),
                why: why(),
            },
            Code::FailedPrecondition,
            Reason::InUse,
        ),
        (
            StoreError::Invalid {
                field: "labels",
                why: why(),
            },
            Code::InvalidArgument,
            Reason::InvalidArgument,
        ),
        (
            StoreError::LastAdmin(id()),
            Code::FailedPrecondition,
            Reason::LastAdmin,
        ),
        (
            StoreError::NewerSchema(id()),
            Code::Internal,
            Reason::Internal,
        ),
        (
            StoreError::NoTargets,
            Code::InvalidArgument,
            Reason::NoTargets,
        ),
        (
            StoreError::Finished,
            Code::FailedPrecondition,
            Reason::Finished,
        ),
        (
            StoreError::RequestIdReused,
            Code::InvalidArgument,
            Reason::RequestIdReused,
        ),
        (
            StoreError::Db(sea_orm::DbErr::Custom("secret".into())),
            Code::Internal,
            Reason::Internal,
        ),
    ];
    for (error, code, expected) in table {
        let status = Status::from(error);
        assert_eq!(status.code(), code, "{status:?}");
        assert_eq!(reason(&status), expected, "{status:?}");
        assert!(!status.message().contains("secret"));
    }
}

#[test]
fn a_wrong_field_is_named_and_trouble_says_when_to_come_back() {
    let status = Status::from(StoreError::Invalid {
        field: "labels",
        why: "no".into(),
    });
    let details = status.get_error_details();
    let violations = &details.bad_request().expect("BadRequest").field_violations;
    assert_eq!(violations[0].field, "labels");
    let status = Status::from(StoreError::Unavailable(String::new()));
    assert!(status.get_error_details().retry_info().is_some());
}

#[test]
fn a_status_stays_small() {
    let long = "ä".repeat(10_000);
    for status in [
        invalid("name", long.clone()),
        super::status(Code::NotFound, Reason::NotFound, long),
    ] {
        assert!(status.message().len() + status.details().len() < 4096);
    }
}

#[test]
fn archives_that_will_not_do_say_why() {
    let status = archive(&ArchiveError::ManifestMissing);
    assert_eq!(
        (status.code(), reason(&status)),
        (Code::InvalidArgument, Reason::ManifestMissing)
    );
}

#[test]
fn a_session_that_does_not_open_or_ends_says_why() {
    let name = || "edge-1".to_owned();
    let cause = Cause::Deleted;
    let draining = EndReason::Drain {
        reconnect_after: RETRY,
    };
    let too_old = HandshakeError::ProtocolTooOld {
        spoken: 1,
        least: 2,
    };
    let downgraded = HandshakeError::ProtocolDowngraded {
        spoken: 1,
        known: 2,
    };
    let revoked = HandshakeError::KeyRevoked {
        cause,
        device_name: name(),
    };
    let overloaded = HandshakeError::Overloaded { retry_after: RETRY };
    let table = [
        (
            HandshakeError::Malformed(name()).into(),
            Code::InvalidArgument,
            Reason::InvalidArgument,
        ),
        (
            HandshakeError::TooManyHeld(5000).into(),
            Code::InvalidArgument,
            Reason::InvalidArgument,
        ),
        (
            HandshakeError::NotAuthenticated("bad signature").into(),
            Code::Unauthenticated,
            Reason::Unauthenticated,
        ),
        (
            too_old.into(),
            Code::FailedPrecondition,
            Reason::ProtocolTooOld,
        ),
        (
            downgraded.into(),
            Code::FailedPrecondition,
            Reason::ProtocolDowngraded,
        ),
        (revoked.into(), Code::Unauthenticated, Reason::DeviceDeleted),
        (
            HandshakeError::TooSlow.into(),
            Code::Unauthenticated,
            Reason::Unauthenticated,
        ),
        (
            overloaded.into(),
            Code::ResourceExhausted,
            Reason::Overloaded,
        ),
        (
            HandshakeError::Draining.into(),
            Code::Unavailable,
            Reason::Draining,
        ),
        (
            HandshakeError::Unanswered.into(),
            Code::Unavailable,
            Reason::StoreUnavailable,
        ),
        (
            EndReason::Replaced.into(),
            Code::Aborted,
            Reason::SessionReplaced,
        ),
        (
            EndReason::SlowConsumer.into(),
            Code::ResourceExhausted,
            Reason::SlowConsumer,
        ),
        (
            EndReason::Revoked(cause).into(),
            Code::Unauthenticated,
            Reason::DeviceDeleted,
        ),
        (
            EndReason::Unrecorded.into(),
            Code::Unavailable,
            Reason::StoreUnavailable,
        ),
        (draining.into(), Code::Unavailable, Reason::Draining),
    ];
    for (status, code, expected) in table {
        let status: Status = status;
        assert_eq!(status.code(), code, "{status:?}");
        assert_eq!(reason(&status), expected, "{status:?}");
        assert!(!status.message().contains("signature"), "{status:?}");
    }
}
