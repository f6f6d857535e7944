//! What a device is told about a report.

use kernex_proto::v1::Disposition;

use super::{Attempt, Verdict};

/// The disposition of a report, from what it did and where the attempt stands after it. `asks` when
/// the report asks for another run.
#[must_use]
pub fn disposition(verdict: &Verdict, after: &Attempt, asks: bool) -> Disposition {
    match verdict {
        Verdict::Applied(_) => Disposition::Applied,
        Verdict::Late(_) => Disposition::Late,
        Verdict::Unchanged if after.state.is_open() && asks => Disposition::Applied,
        // A closed attempt that waits for its agent's answer is told so again.
        Verdict::Unchanged if !after.state.is_open() && !after.answered => Disposition::Late,
        Verdict::Unchanged => Disposition::Duplicate,
    }
}
