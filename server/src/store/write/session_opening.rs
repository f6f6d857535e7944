//! A session that is being opened: what came, what the rows say, and the answer.

use kernex_proto::{
    ids::{AttemptId, DeviceId, Digest, JournalId},
    v1,
};

use crate::{
    domain::{
        attempt::State,
        device::{DiskFault, ReturningJournal},
    },
    store::{
        db::values::unsigned,
        entity::{device, stored::ReplicaId},
        read::selectors::built_in,
    },
};

/// An authenticated agent that opens a session.
#[derive(Debug, Clone)]
pub struct OpenSession {
    pub device: DeviceId,
    /// The key that its proof holds for.
    pub key: Digest,
    pub journal: JournalId,
    /// Newest epoch that its journal has.
    pub last_epoch: u64,
    /// Revision of the protocol that its proof is made by.
    pub protocol_revision: u32,
    /// Changes with each boot.
    pub boot_id: String,
    pub agent_version: String,
    /// What its machine is.
    pub inventory: v1::Inventory,
    /// Attempts in its journal that are open or not acknowledged. The list is complete.
    pub held: Vec<HeldAttempt>,
    /// All its outcomes numbered up to this were acknowledged. `None` when the agent does not say.
    pub acknowledged_seq: Option<u64>,
    /// Hash of the session token that it gets.
    pub token_hash: Digest,
    /// The replica that it is connected to.
    pub replica: ReplicaId,
}

/// An attempt in an agent's journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldAttempt {
    pub attempt: AttemptId,
    /// Accepted, running, or a final state whose outcome waits for its acknowledgement.
    pub state: State,
}

/// The number of an opened session, and what Welcome tells the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenedSession {
    /// The newest one wins.
    pub epoch: u64,
    /// Name of the device on the server.
    pub name: String,
    /// Copies were seen. The device gets no commands.
    pub conflicted: bool,
    /// All outcomes of its journal numbered up to this are recorded. `None` when that is not known.
    pub recorded_seq: Option<u64>,
    /// The fault of the disk of its state folder, as it was last recorded.
    pub disk_fault: Option<DiskFault>,
    /// Attempts that the device holds and has to stop.
    pub stops: Vec<(AttemptId, v1::Stop)>,
}

/// A session that is being opened, with the rows it is compared with.
pub(crate) struct SessionOpening<'a> {
    pub(crate) open: &'a OpenSession,
    pub(crate) before: device::Model,
    pub(crate) row: device::Model,
    pub(crate) returned: ReturningJournal,
    /// All outcomes of its journal numbered up to this are recorded.
    pub(crate) recorded_seq: Option<u64>,
    /// The rows have no mark for this journal, so the mark begins with what the agent says.
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

    /// Whether outcomes were acknowledged to the device that these rows do not have. Then the rows
    /// come from an older backup, and attempts that are not listed may have ended since.
    pub(crate) fn is_ahead(&self) -> bool {
        let acknowledged = self.open.acknowledged_seq.unwrap_or(0);
        self.recorded_seq
            .is_some_and(|recorded| recorded < acknowledged)
    }

    /// Whether more has changed than the number and the time of the row.
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

    /// Whether a selector may match the device now that did not match before, or the other way
    /// round.
    pub(crate) fn is_news(&self) -> bool {
        built_in(&self.before) != built_in(&self.row)
    }
}
