//! Devices: whether they can be reached, what is wrong with their disk, why they are conflicted.

use kernex_proto::v1;

use super::same_words;
use crate::domain::device::{Conflict, DeviceStatus, DiskFault, away::AwayReason};

same_words!(DeviceStatus, v1::DeviceStatus: Offline, Online, Conflicted);
same_words!(DiskFault, v1::DiskFault: NoSpace, ReadOnly, IoError);
same_words!(Conflict, v1::DeviceConflict: Copies, EpochNotIssued);
same_words!(
    AwayReason,
    v1::AwayReason: Closed, Cut, Silent, Drained, ServerGone, Replaced, Revoked, Resolved, Refused,
    SlowConsumer, Malformed, Unrecorded, NeverConnected
);
