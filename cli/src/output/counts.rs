//! How many targets are in which state, as printed.

use kernex_proto::v1::TargetCounts;

/// How many targets are closed, and how many there are.
pub(super) fn closed(counts: TargetCounts) -> (u64, u64) {
    let open = counts.held + counts.pending + counts.in_progress;
    (
        counts.total.saturating_sub(open).into(),
        counts.total.into(),
    )
}

/// "2 of 3 succeeded, 1 failed"
pub(super) fn sentence(counts: TargetCounts) -> String {
    let mut text = format!("{} of {} succeeded", counts.succeeded, counts.total);
    for (count, name) in [
        (counts.failed, "failed"),
        (counts.in_progress, "in progress"),
        (counts.pending, "waiting"),
        (counts.held, "held"),
        (counts.cancelled, "cancelled"),
        (counts.expired, "expired"),
        (counts.superseded, "superseded"),
    ] {
        if count > 0 {
            text.push_str(&format!(", {count} {name}"));
        }
    }
    text
}
