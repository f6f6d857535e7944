//! What the status of a refused call says beside its code.

use kernex_proto::error::{DOMAIN, Reason};
use tonic::Status;
use tonic_types::StatusExt as _;

/// The reason, if it is one of Kernex's.
#[must_use]
pub fn reason(status: &Status) -> Option<Reason> {
    let info = status.get_details_error_info()?;
    (info.domain == DOMAIN).then(|| Reason::parse(&info.reason))?
}

/// The first field of the request that is wrong; empty when none is named.
#[must_use]
pub fn wrong_field(status: &Status) -> String {
    let violations = status
        .get_details_bad_request()
        .map(|bad| bad.field_violations);
    let first = violations.and_then(|all| all.into_iter().next());
    first.map(|violation| violation.field).unwrap_or_default()
}

/// Whether the code says that another try may help.
#[must_use]
pub fn is_passing(status: &Status) -> bool {
    use tonic::Code::{
        Aborted, Cancelled, DeadlineExceeded, Internal, ResourceExhausted, Unavailable, Unknown,
    };
    let passing = [
        Aborted,
        Cancelled,
        DeadlineExceeded,
        Internal,
        ResourceExhausted,
        Unavailable,
        Unknown,
    ];
    passing.contains(&status.code())
}
