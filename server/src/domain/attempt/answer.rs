//! What a device is told about its report: a pure function of the change that the report made.

use super::{Attempt, Effect};

/// What a device is told about a report of an attempt that is known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// The attempt is now where the report says.
    Applied,
    /// The attempt had closed before. The report is kept beside it.
    Late,
    Duplicate,
}

/// What a device is told about a report, from what the report did and the attempt after it. `asks`
/// when the report asks for another run.
#[must_use]
pub fn disposition(verdict: &Effect, after: &Attempt, asks: bool) -> Disposition {
    match verdict {
        Effect::Applied(_) => Disposition::Applied,
        Effect::Late(_) => Disposition::Late,
        Effect::Unchanged if after.state.is_open() && asks => Disposition::Applied,
        // A closed attempt that waits for its agent's answer is told again that it is closed.
        Effect::Unchanged if !after.state.is_open() && !after.answered => Disposition::Late,
        Effect::Unchanged => Disposition::Duplicate,
    }
}
