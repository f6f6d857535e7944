//! The newest heartbeat of a device, as the store takes it.

use std::collections::BTreeMap;

use kernex_proto::{ids::DeviceId, v1};

use crate::{clock::Timestamp, store::entity::stored::Stored};

/// What one device said last.
#[derive(Debug, Clone, PartialEq)]
pub struct HeartbeatRow {
    pub device: DeviceId,
    /// The session it came in.
    pub epoch: u64,
    /// How the machine is.
    pub vital_signs: v1::VitalSigns,
    /// What the agent says is active; none when an outcome has come since, which knows better.
    pub releases: Option<Vec<v1::ActiveRelease>>,
    /// What it was to remove and could not.
    pub leftovers: Option<v1::Leftovers>,
    /// Its releases are unchanged since they last matched what is expected, and no outcome has come
    /// since. The drift check can be skipped.
    pub fits: bool,
    /// When a sample of its history was last written. None when that has to be read first, and
    /// whether the session is still the newest one of its device.
    pub sampled_at: Option<Timestamp>,
}

/// The newest heartbeat of each device.
pub(crate) type Newest<'a> = BTreeMap<Stored<DeviceId>, &'a HeartbeatRow>;
