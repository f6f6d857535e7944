//! Where a device runs something else than it should, as printed.

use kernex_proto::v1;

use crate::output::{Time, lasting, short_digest};

/// A version, or what stands for it.
fn version_word(version: &str, digest: &str) -> Option<String> {
    match (version.is_empty(), digest.is_empty()) {
        (false, _) => Some(version.to_owned()),
        (true, false) => Some(short_digest(digest).to_owned()),
        (true, true) => None,
    }
}

fn actual(drift: &v1::Drift) -> Option<String> {
    version_word(&drift.actual_version, &drift.actual_digest)
}

fn expected(drift: &v1::Drift) -> Option<String> {
    version_word(&drift.expected_version, &drift.expected_digest)
}

/// "app:1.0 (not 2.0)", "app:none (not 2.0)", or "app:1.0 (not expected)".
pub(super) fn runs(drift: &v1::Drift) -> String {
    format!(
        "{}:{} (not {})",
        drift.name,
        actual(drift).as_deref().unwrap_or("none"),
        expected(drift).as_deref().unwrap_or("expected")
    )
}

/// "app runs 2.0 instead of 1.0, for 5m"
pub(super) fn sentence(drift: &v1::Drift, now: Time) -> String {
    const UNKNOWN: &str = "nothing known";
    format!(
        "{} runs {} instead of {}, for {}",
        drift.name,
        actual(drift).as_deref().unwrap_or(UNKNOWN),
        expected(drift).as_deref().unwrap_or(UNKNOWN),
        lasting(Time::from_wire(drift.since), now)
    )
}
