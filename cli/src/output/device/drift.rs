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

/// A version, or what stands for it.
fn word(version: &str, digest: &str) -> Option<String> {
    match (version.is_empty(), digest.is_empty()) {
        (false, _) => Some(version.to_owned()),
        (true, false) => Some(digest.get(..12).unwrap_or(digest).to_owned()),
        (true, true) => None,
    }
}

impl DriftView {
    /// The bundle name it is about.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// "app:1.0 (not 2.0)", "app:none (not 2.0)", or "app:1.0 (not expected)".
    pub(super) fn runs(&self) -> String {
        let actual = word(&self.actual_version, &self.actual_digest);
        let expected = word(&self.expected_version, &self.expected_digest);
        format!(
            "{}:{} (not {})",
            self.name,
            actual.as_deref().unwrap_or("none"),
            expected.as_deref().unwrap_or("expected")
        )
    }

    /// "app runs 2.0 instead of 1.0, since 5m ago"
    pub(super) fn sentence(&self, now: Time) -> String {
        let word = |version: &str, digest: &str| {
            word(version, digest).unwrap_or_else(|| "nothing known".to_owned())
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
