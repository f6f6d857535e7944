//! Exit codes and next steps.

use std::io;

use super::*;
use tonic_types::ErrorDetails;

#[test]
fn every_reason_has_an_exit_code_and_a_next_step() {
    for reason in Reason::ALL {
        let (exit, next) = by_reason(*reason);
        assert!((1..=7).contains(&exit.code()), "{reason:?}");
        assert!(!next.is_empty(), "{reason:?}");
    }
}

#[test]
fn the_exit_code_follows_the_reason_before_the_code() {
    let status = Status::with_error_details(
        Code::InvalidArgument,
        "nothing matched",
        ErrorDetails::with_error_info(
            Reason::NoTargets.as_str(),
            DOMAIN,
            [] as [(String, String); 0],
        ),
    );
    assert_eq!(Failure::from(status).exit, Exit::NotFoundOrConflict);
}

#[test]
fn codes_without_a_reason_have_their_exit_code() {
    let table = [
        (Code::Unauthenticated, 4),
        (Code::PermissionDenied, 4),
        (Code::NotFound, 5),
        (Code::AlreadyExists, 5),
        (Code::FailedPrecondition, 5),
        (Code::Aborted, 5),
        (Code::InvalidArgument, 2),
        (Code::Unavailable, 7),
        (Code::DeadlineExceeded, 7),
        (Code::Internal, 1),
        (Code::Unimplemented, 1),
    ];
    for (code, exit) in table {
        assert_eq!(
            Failure::from(Status::new(code, "x")).exit.code(),
            exit,
            "{code:?}"
        );
    }
}

#[test]
fn a_reason_of_another_domain_is_not_ours() {
    let status = Status::with_error_details(
        Code::NotFound,
        "x",
        ErrorDetails::with_error_info("INTERNAL", "proxy.example", [] as [(String, String); 0]),
    );
    assert_eq!(reason(&status), None);
    assert_eq!(Failure::from(status).exit, Exit::NotFoundOrConflict);
}

#[test]
fn a_certificate_that_is_refused_has_a_next_step_of_its_own() {
    let next = |why| {
        let tls = rustls::Error::InvalidCertificate(why);
        let tls = io::Error::new(io::ErrorKind::InvalidData, tls);
        let dial = kernex_proto::connect::DialError::Tls(tls);
        Failure::unreachable("https://h", &io::Error::other(dial)).next
    };
    for why in [
        CertificateError::UnknownIssuer,
        CertificateError::BadSignature,
    ] {
        assert!(next(why).contains("fresh `ca.pem`"));
    }
    assert!(next(CertificateError::NotValidForName).contains("--public-address"));
    assert!(next(CertificateError::Expired).contains("Set the clock"));
    assert!(next(CertificateError::NotValidYet).contains("Set the clock"));
    let message = rustls::InvalidMessage::InvalidContentType;
    let tls = io::Error::new(
        io::ErrorKind::InvalidData,
        rustls::Error::InvalidMessage(message),
    );
    let dial = kernex_proto::connect::DialError::Tls(tls);
    let plain = Failure::unreachable("https://h", &io::Error::other(dial));
    assert!(plain.message.contains("does not speak TLS"), "{plain}");
    // Only the error of TLS counts, not a text.
    let said = Failure::unreachable("https://h", &io::Error::other("UnknownIssuer"));
    assert!(said.next.contains("Check that the server runs"));
}

#[test]
fn who_trusts_the_machines_authorities_has_no_ca_file_to_renew() {
    let tls = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
    let tls = io::Error::new(io::ErrorKind::InvalidData, tls);
    let dial = kernex_proto::connect::DialError::Tls(tls);
    let next = Failure::unreachable_by_name("https://h", &io::Error::other(dial)).next;
    assert!(next.contains("that this machine trusts"), "{next}");
    assert!(!next.contains("fresh"), "{next}");
    let other = Failure::unreachable_by_name("https://h", &io::Error::other("x"));
    assert!(other.next.contains("Check that the server runs"));
}

#[test]
fn a_call_may_have_a_next_step_of_its_own() {
    let refused = |reason: Reason| {
        let nothing = [] as [(String, String); 0];
        let details = ErrorDetails::with_error_info(reason.as_str(), DOMAIN, nothing);
        let status = Status::with_error_details(Code::NotFound, "there is none", details);
        Failure::of_call(status, Reason::NotFound, "Look there.").next
    };
    assert_eq!(refused(Reason::NotFound), "Look there.");
    assert_ne!(refused(Reason::NotAllowed), "Look there.");
}

#[test]
fn a_mark_is_put_below_the_mistake() {
    let refused = |mark: &str| {
        let marked_line = [
            (LINE.to_owned(), "site=berlin,".to_owned()),
            (MARK.to_owned(), mark.to_owned()),
        ];
        let reason = Reason::InvalidArgument.as_str();
        let details = ErrorDetails::with_error_info(reason, DOMAIN, marked_line);
        let status =
            Status::with_error_details(Code::InvalidArgument, "a key was expected", details);
        Failure::from(status).message
    };
    assert_eq!(
        refused("12"),
        "a key was expected\n    site=berlin,\n                ^"
    );
    for nonsense in ["13", "-1", "x"] {
        assert_eq!(refused(nonsense), "a key was expected");
    }
}

#[test]
fn field_violations_are_said_once() {
    let status = Status::with_error_details(
        Code::InvalidArgument,
        "the request is not valid",
        ErrorDetails::with_bad_request_violation("selector", "`=` expected at 4"),
    );
    assert_eq!(
        Failure::from(status).message,
        "the request is not valid; selector: `=` expected at 4"
    );
}

#[derive(Debug)]
struct Caused(&'static str, Option<Box<Caused>>);

impl fmt::Display for Caused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Error for Caused {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.1.as_deref().map(|cause| cause as _)
    }
}

#[test]
fn a_cause_is_not_said_twice() {
    let refused = Caused("tcp connect error", None);
    let failed = Caused("TCP failed", Some(Box::new(refused)));
    let transport = Caused("transport error", Some(Box::new(failed)));
    assert_eq!(
        with_causes("TCP failed".to_owned(), &transport),
        "TCP failed: transport error: tcp connect error"
    );
}
