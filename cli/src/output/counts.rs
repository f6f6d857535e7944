//! How many targets are in which state, as printed.

use kernex_proto::v1;
use serde::Serialize;

/// Targets by their state, of a deployment or of one of its phases.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct CountsView {
    total: u32,
    held: u32,
    pending: u32,
    in_progress: u32,
    succeeded: u32,
    failed: u32,
    cancelled: u32,
    expired: u32,
    superseded: u32,
}

impl From<v1::TargetCounts> for CountsView {
    fn from(wire: v1::TargetCounts) -> Self {
        Self {
            total: wire.total,
            held: wire.held,
            pending: wire.pending,
            in_progress: wire.in_progress,
            succeeded: wire.succeeded,
            failed: wire.failed,
            cancelled: wire.cancelled,
            expired: wire.expired,
            superseded: wire.superseded,
        }
    }
}

impl CountsView {
    /// How many targets are closed, and how many there are.
    pub(super) fn closed(self) -> (u64, u64) {
        let open = self.held + self.pending + self.in_progress;
        (self.total.saturating_sub(open).into(), self.total.into())
    }

    /// "2 of 3 succeeded, 1 failed"
    pub(super) fn sentence(self) -> String {
        let mut text = format!("{} of {} succeeded", self.succeeded, self.total);
        for (count, name) in [
            (self.failed, "failed"),
            (self.in_progress, "in progress"),
            (self.pending, "waiting"),
            (self.held, "held"),
            (self.cancelled, "cancelled"),
            (self.expired, "expired"),
            (self.superseded, "superseded"),
        ] {
            if count > 0 {
                text.push_str(&format!(", {count} {name}"));
            }
        }
        text
    }
}
