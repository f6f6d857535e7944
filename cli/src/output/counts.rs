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
    for part in others(counts) {
        text.push_str(", ");
        text.push_str(&part);
    }
    text
}

/// "2 succeeded, 1 failed", beside something that says how many there are.
pub(super) fn tally(counts: TargetCounts) -> String {
    let succeeded = (counts.succeeded > 0).then(|| format!("{} succeeded", counts.succeeded));
    let parts: Vec<String> = succeeded.into_iter().chain(others(counts)).collect();
    parts.join(", ")
}

/// How many are in each other state, where there are any.
fn others(counts: TargetCounts) -> Vec<String> {
    let others = [
        (counts.failed, "failed"),
        (counts.in_progress, "in progress"),
        (counts.pending, "waiting"),
        (counts.held, "held"),
        (counts.cancelled, "cancelled"),
        (counts.expired, "expired"),
        (counts.superseded, "superseded"),
    ];
    let others = others.into_iter().filter(|(count, _)| *count > 0);
    others
        .map(|(count, name)| format!("{count} {name}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_told_with_and_without_the_total() {
        let counts = TargetCounts {
            total: 4,
            succeeded: 1,
            failed: 1,
            pending: 2,
            ..Default::default()
        };
        assert_eq!(sentence(counts), "1 of 4 succeeded, 1 failed, 2 waiting");
        assert_eq!(tally(counts), "1 succeeded, 1 failed, 2 waiting");
        let begun = TargetCounts {
            total: 2,
            pending: 2,
            ..Default::default()
        };
        assert_eq!(tally(begun), "2 waiting");
    }
}
