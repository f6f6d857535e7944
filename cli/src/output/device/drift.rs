//! Where a device runs something else than it should, as printed.

use kernex_proto::v1;
use serde::Serialize;

use crate::output::{Time, ago};

/// A bundle name under which a device runs something else than its last outcome said.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct DriftView {
    name: String,
    /// Empty when nothing was to run.
    expected_version: String,
    expected_digest: String,
    /// Empty when nothing runs.
    actual_version: String,
    actual_digest: String,
    since: Option<Time>,
}

impl From<v1::Drift> for DriftView {
    fn from(wire: v1::Drift) -> Self {
        Self {
            since: Time::from_wire(wire.since),
            name: wire.name,
            expected_version: wire.expected_version,
            expected_digest: wire.expected_digest,
            actual_version: wire.actual_version,
            actual_digest: wire.actual_digest,
        }
    }
}

impl DriftView {
    /// "app runs 2.0 instead of 1.0, since 5m ago"
    pub(super) fn sentence(&self, now: Time) -> String {
        let word = |version: &str, digest: &str| match (version.is_empty(), digest.is_empty()) {
            (false, _) => version.to_owned(),
            (true, false) => digest.get(..12).unwrap_or(digest).to_owned(),
            (true, true) => "nothing known".to_owned(),
        };
        format!(
            "{} runs {} instead of {}, since {}",
            self.name,
            word(&self.actual_version, &self.actual_digest),
            word(&self.expected_version, &self.expected_digest),
            ago(self.since, now)
        )
    }
}
