//! What a device is told about a report.

use super::{Attempt, Effect};

/// What became of a report about an attempt that is known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// The attempt is where the report says.
    Applied,
    /// The attempt had closed before; what the report says is kept beside it.
    Late,
    /// It says nothing new.
    Duplicate,
}

/// The disposition of a report, from what it did and where the attempt stands after it. `asks` when
/// the report asks for another run.
#[must_use]
pub fn disposition(verdict: &Effect, after: &Attempt, asks: bool) -> Disposition {
    match verdict {
        Effect::Applied(_) => Disposition::Applied,
        Effect::Late(_) => Disposition::Late,
        Effect::Unchanged if after.state.is_open() && asks => Disposition::Applied,
        // A closed attempt that waits for its agent's answer is told so again.
        Effect::Unchanged if !after.state.is_open() && !after.answered => Disposition::Late,
        Effect::Unchanged => Disposition::Duplicate,
    }
}
