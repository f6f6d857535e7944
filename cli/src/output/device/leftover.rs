//! What an agent was to remove and could not, as printed.

use kernex_proto::v1;
use serde::Serialize;

/// Files and folders that stay on a device.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct LeftoversView {
    count: u32,
    /// Some of them.
    named: Vec<LeftoverView>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct LeftoverView {
    /// In the agent's state folder.
    path: String,
    reason: String,
}

impl From<v1::Leftovers> for LeftoversView {
    fn from(wire: v1::Leftovers) -> Self {
        let named = wire.named.into_iter();
        Self {
            count: wire.count,
            named: named
                .map(|left| LeftoverView {
                    path: left.path,
                    reason: left.reason,
                })
                .collect(),
        }
    }
}

impl LeftoversView {
    /// "bundles/app/releases/1.0: a file system is mounted at `data`", then "and 3 more"
    pub(super) fn sentences(&self) -> Vec<String> {
        let named = self.named.iter();
        let mut sentences: Vec<String> = named
            .map(|left| format!("{}: {}", left.path, left.reason))
            .collect();
        let more = (self.count as usize).saturating_sub(self.named.len());
        if more > 0 {
            sentences.push(format!("and {more} more"));
        }
        sentences
    }
}
