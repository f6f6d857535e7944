//! A session that opens, between rows and rules.

use kernex_proto::{
    ids::{AttemptId, DeviceId, Digest, JournalId},
    v1,
};
use uuid::Uuid;

use crate::{
    domain::{
        attempt::State,
        device::{DiskFault, ReturningJournal},
    },
    store::{db::values::unsigned, entity::device, read::selectors::built_in},
};

/// An authenticated agent that opens a session.
#[derive(Debug, Clone)]
pub struct OpenSession {
    pub device: DeviceId,
    /// The key it proved to hold.
    pub key: Digest,
    /// Its journal.
    pub journal: JournalId,
    /// Newest epoch it has on disk.
    pub last_epoch: u64,
    /// Revision of the protocol it proved that by.
    pub protocol_revision: u32,
    /// Changes with each boot.
    pub boot_id: String,
    /// Version of the agent program.
    pub agent_version: String,
    /// What the machine is.
    pub inventory: v1::Inventory,
    /// Every attempt that is open or not acknowledged in its journal. The list is complete.
    pub held: Vec<HeldAttempt>,
    /// Every outcome numbered up to this was acknowledged to it; none when the agent does not say.
    pub acknowledged_seq: Option<u64>,
    /// Hash of the session token it is about to get.
    pub token_hash: Digest,
    /// The replica it is connected to.
    pub replica: Uuid,
}

/// An attempt in an agent's journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldAttempt {
    /// Which one.
    pub attempt: AttemptId,
    /// Accepted, running, or a final state whose outcome waits for its ack.
    pub state: State,
}

/// The session's number, and what the agent has to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenedSession {
    /// Newest wins.
    pub epoch: u64,
    /// Device name on the server.
    pub name: String,
    /// Two copies were seen; it gets no commands.
    pub conflicted: bool,
    /// Every outcome of its journal numbered up to this is recorded; none when that is not known.
    pub recorded_seq: Option<u64>,
    /// What was last known to be wrong with the disk of its state folder.
    pub disk_fault: Option<DiskFault>,
    /// Attempts that it holds and has to stop.
    pub stops: Vec<(AttemptId, v1::Stop)>,
}

/// A session that opens, between rows and rules.
pub(crate) struct SessionOpening<'a> {
    pub(crate) open: &'a OpenSession,
    pub(crate) before: device::Model,
    pub(crate) row: device::Model,
    pub(crate) returned: ReturningJournal,
    /// Up to where the outcomes of its journal are recorded.
    pub(crate) recorded_seq: Option<u64>,
    /// The rows have no mark for this journal, so it begins with what the agent says.
    pub(crate) begins_mark: bool,
}

impl SessionOpening<'_> {
    pub(crate) fn answer(&self) -> OpenedSession {
        OpenedSession {
            epoch: unsigned(self.row.epoch),
            name: self.row.name.clone(),
            conflicted: self.row.conflicted,
            recorded_seq: self.recorded_seq.filter(|_| !self.row.conflicted),
            disk_fault: self.row.disk_fault.as_deref().and_then(DiskFault::parse),
            stops: Vec::new(),
        }
    }

    /// Whether the device got acknowledgements of outcomes that these rows do not have. Then the
    /// rows come from an older backup, and attempts that are not listed may have ended since.
    pub(crate) fn is_ahead(&self) -> bool {
        let acknowledged = self.open.acknowledged_seq.unwrap_or(0);
        self.recorded_seq
            .is_some_and(|recorded| recorded < acknowledged)
    }

    /// Whether more than the number and the time of the row changed.
    pub(crate) fn is_changed(&self) -> bool {
        let numbered = device::Model {
            epoch: self.row.epoch,
            last_seen: self.row.last_seen,
            away_since: None,
            away_reason: String::new(),
            away_detail: String::new(),
            ..self.before.clone()
        };
        numbered != self.row
    }

    /// Whether a selector may match it now and did not before, or the other way round.
    pub(crate) fn is_news(&self) -> bool {
        built_in(&self.before) != built_in(&self.row)
    }
}
