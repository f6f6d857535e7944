//! Which devices run what they are expected to, so that a heartbeat that says so again is not judged again.

use std::{
    collections::{HashMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    time::Duration,
};

use kernex_proto::ids::DeviceId;
use tokio::time::Instant;

use crate::store::heartbeats::HeartbeatRow;

/// How long that is believed. An outcome that changes what is expected is told at once, but one of an older session may come
/// in through another replica.
const BELIEVED: Duration = Duration::from_secs(5 * 60);

/// What devices said when it was found to be as expected.
#[derive(Debug, Default)]
pub(super) struct Fits(HashMap<DeviceId, Said>);

#[derive(Debug, PartialEq, Eq)]
struct Said {
    epoch: u64,
    releases: u64,
    at: Instant,
}

impl Fits {
    /// Whether this heartbeat says what was found to be as expected in the same session.
    pub(super) fn knows(&self, row: &HeartbeatRow, now: Instant) -> bool {
        let Some(said) = self.0.get(&row.device) else {
            return false;
        };
        let believed = now.duration_since(said.at) < BELIEVED;
        believed && said.epoch == row.epoch && hash(row) == Some(said.releases)
    }

    /// What this heartbeat says is as expected.
    pub(super) fn learn(&mut self, row: &HeartbeatRow, now: Instant) {
        if let Some(releases) = hash(row) {
            let said = Said {
                epoch: row.epoch,
                releases,
                at: now,
            };
            self.0.insert(row.device, said);
        }
    }

    /// Something else may be expected of this device from now on.
    pub(super) fn forget(&mut self, device: DeviceId) {
        self.0.remove(&device);
    }

    /// Drops what nobody will ask about any more, once that is more than half of it.
    pub(super) fn shrink(&mut self, online: usize, now: Instant) {
        if self.0.len() > 2 * online + 64 {
            self.0
                .retain(|_, said| now.duration_since(said.at) < BELIEVED / 5);
        }
    }
}

fn hash(row: &HeartbeatRow) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    for release in row.releases.as_ref()? {
        (&release.name, &release.version, &release.digest).hash(&mut hasher);
    }
    Some(hasher.finish())
}

#[cfg(test)]
mod tests {
    use kernex_proto::v1::{ActiveRelease, VitalSigns};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_the_same_words_in_the_same_session_are_known_and_not_for_ever() {
        let runs = |version: &str| {
            Some(vec![ActiveRelease {
                name: "app".into(),
                version: version.into(),
                ..ActiveRelease::default()
            }])
        };
        let row = |epoch, releases| HeartbeatRow {
            device: DeviceId(uuid::Uuid::nil()),
            epoch,
            vital_signs: VitalSigns::default(),
            releases,
            fits: false,
        };
        let now = Instant::now();
        let mut fits = Fits::default();
        fits.learn(&row(1, None), now);
        assert!(!fits.knows(&row(1, None), now));
        fits.learn(&row(1, runs("1")), now);
        assert!(fits.knows(&row(1, runs("1")), now));
        for other in [
            row(1, runs("2")),
            row(1, None),
            row(1, Some(Vec::new())),
            row(2, runs("1")),
        ] {
            assert!(!fits.knows(&other, now), "{other:?}");
        }
        assert!(!fits.knows(&row(1, runs("1")), now + BELIEVED));
        fits.shrink(0, now + BELIEVED);
        assert!(fits.knows(&row(1, runs("1")), now), "there are few");
        fits.forget(row(1, None).device);
        assert!(!fits.knows(&row(1, runs("1")), now));
    }
}
