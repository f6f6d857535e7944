//! Counts failed tries to authenticate, for each source.

use std::{
    hash::Hash,
    num::NonZeroU32,
    time::{Duration, Instant},
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
    state::keyed::HashMapStateStore,
};
use parking_lot::Mutex;

use super::source::Source;

/// Failures of each kind that a source may have at once.
const BURST: NonZeroU32 = NonZeroU32::new(30).unwrap();
/// After each of these it may have one more.
const PERIOD: Duration = Duration::from_secs(1);
/// Sources that are remembered. Those that come when there are so many share one count.
const MOST_SOURCES: usize = 16_384;
/// Time between two searches for sources that can be forgotten, while there are too many.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// What somebody tries to authenticate with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Credential {
    /// An operator token or a session token.
    Bearer,
    Enrolment,
    Hello,
}

/// The source is `None` for those that share one count.
type Key = (Credential, Option<Source>);

/// How often each source has failed.
pub(super) struct Guesses {
    limiter: RateLimiter<Key, HashMapStateStore<Key>, DefaultClock>,
    looked: Mutex<Instant>,
}

impl Default for Guesses {
    fn default() -> Self {
        let quota = Quota::with_period(PERIOD)
            .unwrap_or_else(|| Quota::per_second(NonZeroU32::MIN))
            .allow_burst(BURST);
        Self {
            limiter: RateLimiter::hashmap(quota),
            looked: Mutex::new(Instant::now()),
        }
    }
}

impl Guesses {
    /// Takes one of the failures that a source may have. The error says when there will be one
    /// again.
    pub(super) fn take(&self, credential: Credential, source: Source) -> Result<(), Duration> {
        let remembered = self.limiter.len() < MOST_SOURCES || self.make_room();
        let key = (credential, remembered.then_some(source));
        self.limiter.check_key(&key).map_err(|limited| {
            let wait = limited.wait_time_from(self.limiter.clock().now());
            wait.max(PERIOD)
        })
    }

    /// Forgets the sources that have not failed for long enough.
    pub(super) fn forget(&self) {
        self.limiter.retain_recent();
        self.limiter.shrink_to_fit();
    }

    fn make_room(&self) -> bool {
        let now = Instant::now();
        {
            let mut looked = self.looked.lock();
            if now.duration_since(*looked) < CHECK_EVERY {
                return false;
            }
            *looked = now;
        }
        self.limiter.retain_recent();
        self.limiter.len() < MOST_SOURCES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn source(number: u32) -> Source {
        Source::V4(Ipv4Addr::from_bits(number))
    }

    #[test]
    fn a_source_fails_so_often_and_another_one_does_not_care() {
        let guesses = Guesses::default();
        for _ in 0..BURST.get() {
            assert_eq!(guesses.take(Credential::Hello, source(1)), Ok(()));
        }
        let wait = guesses
            .take(Credential::Hello, source(1))
            .expect_err("too often");
        assert!(wait >= PERIOD, "{wait:?}");
        assert_eq!(guesses.take(Credential::Hello, source(2)), Ok(()));
        // Enrolments are counted apart.
        assert_eq!(guesses.take(Credential::Enrolment, source(1)), Ok(()));
    }

    #[test]
    fn however_many_sources_there_are_only_so_many_are_remembered() {
        let guesses = Guesses::default();
        for number in 0..2 * MOST_SOURCES as u32 {
            let _ = guesses.take(Credential::Bearer, source(number));
        }
        assert!(
            guesses.limiter.len() <= MOST_SOURCES + 1,
            "{}",
            guesses.limiter.len()
        );
        assert!(guesses.take(Credential::Bearer, source(u32::MAX)).is_err());
    }
}
