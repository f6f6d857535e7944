//! Reports of devices, as the session hands them to the recorder and the recorder to the store.

use kernex_proto::{
    ids::{AttemptId, DeviceId, JournalId},
    v1,
};

/// One report of a device, as the store takes it.
#[derive(Debug, Clone, PartialEq)]
pub struct IncomingReport {
    pub device: DeviceId,
    /// Number of the session it came in.
    pub epoch: u64,
    pub attempt: AttemptId,
    pub event: ReportEvent,
    /// Which outcome of its journal it is. `None` for other reports, and when the agent does not
    /// say.
    pub place: Option<ReportPlace>,
}

/// Which outcome of its device's journal a report is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReportPlace {
    pub journal: JournalId,
    /// Number of the outcome before it; 0 when there is none.
    pub after: u64,
    pub seq: u64,
}

/// What a report says.
#[derive(Debug, Clone, PartialEq)]
pub enum ReportEvent {
    /// The attempt is in the journal.
    Accepted,
    Progress(v1::Progress),
    Outcome(v1::Outcome),
    /// The pre hook asked for more time.
    Deferred(v1::Deferred),
}

/// Most bytes of a message that are kept.
pub(crate) const MAX_MESSAGE: usize = 4096;
