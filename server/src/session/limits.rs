//! How much of what one device says is looked at.

use kernex_proto::v1;

/// Releases in one heartbeat; a device has a handful of bundles.
const MAX_RELEASES: usize = 256;

/// What a heartbeat says is active; none when that is more than any device has, so that nothing is compared, written or told of it.
pub(super) fn releases(said: Vec<v1::ActiveRelease>) -> Option<Vec<v1::ActiveRelease>> {
    (said.len() <= MAX_RELEASES).then_some(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_releases_than_any_device_has_are_not_looked_at() {
        let said = |many| releases(vec![v1::ActiveRelease::default(); many]).map(|all| all.len());
        let table = [
            (0, Some(0)),
            (MAX_RELEASES, Some(MAX_RELEASES)),
            (MAX_RELEASES + 1, None),
            (4000, None),
        ];
        for (many, expected) in table {
            assert_eq!(said(many), expected, "{many}");
        }
    }
}
