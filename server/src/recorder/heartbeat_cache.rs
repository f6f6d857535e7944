//! What the last written heartbeat of each device said. A heartbeat that says the same again is
//! cheap: nothing is read for it, and its releases are not compared with the expected ones again.

use std::{
    collections::{HashMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    time::Duration,
};

use kernex_proto::ids::DeviceId;
use tokio::time::Instant;

use crate::{
    clock::Timestamp,
    store::{CachedHeartbeat, HeartbeatRow, RecordedHeartbeats},
};

/// How long an entry is trusted. An outcome changes what is expected. This replica hears of its own
/// outcomes at once, but an outcome of an older session may come in through another replica.
const TRUSTED: Duration = Duration::from_secs(5 * 60);

#[derive(Debug, Default)]
pub(super) struct HeartbeatCache(HashMap<DeviceId, CachedSession>);

/// What is known of a device in its session.
#[derive(Debug, PartialEq, Eq)]
struct CachedSession {
    epoch: u64,
    /// When a sample of it was last added to its history.
    sampled_at: Timestamp,
    /// Hash of the releases last reported, if they were the expected ones, and when that was
    /// checked.
    matched: Option<(u64, Instant)>,
    read_at: Instant,
}

impl HeartbeatCache {
    /// Adds to a heartbeat what the store need not read or compare again.
    pub(super) fn look_up(&self, row: HeartbeatRow, now: Instant) -> CachedHeartbeat {
        let is_trusted = |since: Instant| now.duration_since(since) < TRUSTED;
        let last = self.0.get(&row.device);
        let last = last.filter(|last| last.epoch == row.epoch && is_trusted(last.read_at));
        let sampled_at = last.map(|last| last.sampled_at);
        let fits = last
            .and_then(|last| last.matched)
            .is_some_and(|(said, since)| is_trusted(since) && hash(&row) == Some(said));
        CachedHeartbeat {
            row,
            fits,
            sampled_at,
        }
    }

    /// Takes over what the store found when it wrote these heartbeats.
    pub(super) fn learn_written(
        &mut self,
        written: &[CachedHeartbeat],
        recorded: &RecordedHeartbeats,
        now: Instant,
    ) {
        for CachedHeartbeat { row, fits, .. } in written {
            if let Some(&sampled_at) = recorded.sampled.get(&row.device) {
                let last = self.0.entry(row.device).or_insert(CachedSession {
                    epoch: row.epoch,
                    sampled_at,
                    matched: None,
                    read_at: now,
                });
                if last.epoch != row.epoch {
                    (last.epoch, last.matched) = (row.epoch, None);
                }
                (last.sampled_at, last.read_at) = (sampled_at, now);
            }
            // A row that was not compared changes nothing. A mismatch drops the cached match: when
            // the device goes back to what matched before, it has to be compared again, so that its
            // drift ends.
            if !fits
                && let Some(last) = self.0.get_mut(&row.device)
                && last.epoch == row.epoch
            {
                let fits = recorded.fit.contains(&row.device);
                last.matched = hash(row).filter(|_| fits).map(|said| (said, now));
            }
        }
    }

    /// Drops the cached match: from now on something else may be expected of this device.
    pub(super) fn forget_match(&mut self, device: DeviceId) {
        if let Some(last) = self.0.get_mut(&device) {
            last.matched = None;
        }
    }

    /// Drops old entries once most devices of the cache are not online any more.
    pub(super) fn drop_old(&mut self, online: usize, now: Instant) {
        if self.0.len() > 2 * online + 64 {
            self.0
                .retain(|_, last| now.duration_since(last.read_at) < TRUSTED / 2);
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

    fn runs(version: &str) -> Option<Vec<ActiveRelease>> {
        Some(vec![ActiveRelease {
            name: "app".into(),
            version: version.into(),
            ..ActiveRelease::default()
        }])
    }

    fn row(epoch: u64, releases: Option<Vec<ActiveRelease>>) -> HeartbeatRow {
        HeartbeatRow {
            device: DeviceId(uuid::Uuid::nil()),
            epoch,
            vital_signs: VitalSigns::default(),
            releases,
            leftovers: None,
        }
    }

    fn recorded(fits: bool, sampled_at: Option<i64>) -> RecordedHeartbeats {
        let device = DeviceId(uuid::Uuid::nil());
        let sampled_at = sampled_at.map(Timestamp);
        RecordedHeartbeats {
            fit: fits.then_some(device).into_iter().collect(),
            sampled: sampled_at.map(|at| (device, at)).into_iter().collect(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_same_words_in_the_same_session_fit_and_not_for_ever() {
        let now = Instant::now();
        let mut cache = HeartbeatCache::default();
        let fits = |cache: &HeartbeatCache, row: HeartbeatRow, now| cache.look_up(row, now).fits;
        cache.learn_written(&[row(1, None).into()], &recorded(true, Some(5)), now);
        assert!(!fits(&cache, row(1, None), now));
        cache.learn_written(&[row(1, runs("1")).into()], &recorded(true, None), now);
        assert!(fits(&cache, row(1, runs("1")), now));
        for other in [
            row(1, runs("2")),
            row(1, None),
            row(1, Some(Vec::new())),
            row(2, runs("1")),
        ] {
            assert!(!fits(&cache, other.clone(), now), "{other:?}");
        }
        assert!(!fits(&cache, row(1, runs("1")), now + TRUSTED));
        cache.drop_old(0, now + TRUSTED);
        assert!(fits(&cache, row(1, runs("1")), now), "there are few");
        cache.forget_match(row(1, None).device);
        assert!(!fits(&cache, row(1, runs("1")), now));
    }

    #[tokio::test(start_paused = true)]
    async fn who_drifted_is_compared_again_when_it_says_what_fitted_before() {
        let now = Instant::now();
        let mut cache = HeartbeatCache::default();
        cache.learn_written(&[row(1, runs("1")).into()], &recorded(true, Some(5)), now);
        let drifted = cache.look_up(row(1, runs("2")), now);
        cache.learn_written(&[drifted], &recorded(false, None), now);
        let back = cache.look_up(row(1, runs("1")), now);
        assert!(!back.fits);
        cache.learn_written(&[back], &recorded(true, None), now);
        let again = cache.look_up(row(1, runs("1")), now);
        assert!(again.fits);
        cache.learn_written(&[again], &recorded(false, None), now);
        let again = cache.look_up(row(1, runs("1")), now);
        assert!(again.fits, "it was not compared");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_read_of_a_session_is_read_again_for_the_next_one_and_after_a_while() {
        let now = Instant::now();
        let mut cache = HeartbeatCache::default();
        let sampled = |cache: &HeartbeatCache, epoch, now| {
            let cached = cache.look_up(row(epoch, runs("1")), now);
            cached.sampled_at.map(|at| at.0)
        };
        assert_eq!(sampled(&cache, 1, now), None);
        cache.learn_written(&[row(1, runs("1")).into()], &recorded(true, Some(5)), now);
        assert_eq!(sampled(&cache, 1, now), Some(5));
        assert_eq!(sampled(&cache, 2, now), None);
        assert_eq!(sampled(&cache, 1, now + TRUSTED), None);
        cache.forget_match(row(1, None).device);
        assert_eq!(sampled(&cache, 1, now), Some(5));
        cache.learn_written(&[row(2, runs("1")).into()], &recorded(false, Some(7)), now);
        assert_eq!(sampled(&cache, 1, now), None);
        assert_eq!(sampled(&cache, 2, now), Some(7));
        let again = cache.look_up(row(2, runs("1")), now);
        assert!(!again.fits, "that was another session's");
    }
}
