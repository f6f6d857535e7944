//! One report of a device, as the store takes it.

use kernex_proto::{
    ids::{AttemptId, DeviceId, JournalId},
    v1,
};

/// One report of one device.
#[derive(Debug, Clone, PartialEq)]
pub struct IncomingReport {
    /// Whose session it came in.
    pub device: DeviceId,
    /// Number of that session.
    pub epoch: u64,
    pub attempt: AttemptId,
    /// What happened.
    pub event: ReportEvent,
    /// Where it stands among the outcomes of its journal; none for all else, and when its agent
    /// does not say.
    pub place: Option<ReportPlace>,
}

/// Where an outcome stands in the journal of its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReportPlace {
    pub journal: JournalId,
    /// Number of the outcome before it; 0 when there is none.
    pub after: u64,
    /// Its number.
    pub seq: u64,
}

/// What a report says.
#[derive(Debug, Clone, PartialEq)]
pub enum ReportEvent {
    /// It is in the journal.
    Accepted,
    /// It goes on.
    Progress(v1::Progress),
    /// It ended.
    Outcome(v1::Outcome),
    /// Its `hooks.pre` asks to be asked again later.
    Deferred(v1::Deferred),
}

/// Longest message, in bytes.
pub(crate) const MAX_MESSAGE: usize = 4096;
