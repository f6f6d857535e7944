//! The words by which the log calls what came of commands and acknowledgements.

use super::{Acceptance, AckResult, StopResult};

impl Acceptance {
    /// The word for it in the log.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::New => "accepted",
            Self::Known => "duplicate",
            Self::Full => "refused",
        }
    }
}

impl StopResult {
    /// In the log, the word for what the stop met.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::UnderWay => "running",
            Self::Over => "closed",
        }
    }
}

impl AckResult {
    /// In the log, the word for the report that was acknowledged.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted(_) => "accepted",
            Self::Outcome(_) => "outcome",
            Self::Deferred(_) => "deferred",
            Self::Nothing => "nothing",
        }
    }
}
