//! Heartbeats on their way into the store.

use std::collections::BTreeMap;

use kernex_proto::{ids::DeviceId, v1};

use crate::{clock::Timestamp, store::entity::stored::Stored};

/// The newest heartbeat of a device, as its session received it.
#[derive(Debug, Clone, PartialEq)]
pub struct HeartbeatRow {
    pub device: DeviceId,
    /// The session it came in.
    pub epoch: u64,
    pub vital_signs: v1::VitalSigns,
    /// What the agent says is active. `None` when an outcome has come since, which knows better.
    pub releases: Option<Vec<v1::ActiveRelease>>,
    /// Files and folders that the agent was to remove and could not.
    pub leftovers: Option<v1::Leftovers>,
}

/// A heartbeat to write, with what is known about its device already. What is known need not be
/// read again.
#[derive(Debug, Clone, PartialEq)]
pub struct CachedHeartbeat {
    pub row: HeartbeatRow,
    /// Its releases have not changed since they last matched, and no outcome has come since. The
    /// drift check is skipped.
    pub fits: bool,
    /// When a sample of its history was last written. `None` when that has to be read first, and
    /// whether the session is still the newest of its device.
    pub sampled_at: Option<Timestamp>,
}

impl From<HeartbeatRow> for CachedHeartbeat {
    /// Nothing is known about the device.
    fn from(row: HeartbeatRow) -> Self {
        Self {
            row,
            fits: false,
            sampled_at: None,
        }
    }
}

pub(crate) type Newest<'a> = BTreeMap<Stored<DeviceId>, &'a CachedHeartbeat>;
