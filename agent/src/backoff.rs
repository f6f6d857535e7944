//! How long to wait before connecting again: full jitter below a doubling ceiling.
//!
//! | failed connection | ceiling | wait |
//! |---|---|---|
//! | first | 1 s | 0 to 1 s |
//! | second | 2 s | 0 to 2 s |
//! | seventh and later | 60 s | 0 to 60 s |
//!
//! Full jitter spreads a fleet that lost its server at one moment. The ceiling returns to 1 s only
//! after a session of at least a minute, so that a server which accepts and drops sessions is not
//! flooded. A wait that the server asks for replaces all of this.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};

/// Ceiling of the first wait.
pub(crate) const FIRST: Duration = Duration::from_secs(1);
/// Highest ceiling, unless the configuration says less.
pub(crate) const LONGEST: Duration = Duration::from_secs(60);
/// After a session of this length the ceiling starts again.
pub(crate) const STABLE: Duration = Duration::from_secs(60);
/// Longest wait the server may ask for: one wrong number must not lose a device for ever.
const LONGEST_DIRECTED: Duration = Duration::from_secs(3600);

/// Waits of one connection that is tried again and again.
#[derive(Debug)]
pub(crate) struct Backoff {
    policy: ExponentialBuilder,
    ceilings: ExponentialBackoff,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new(LONGEST)
    }
}

impl Backoff {
    /// Waits that never exceed `longest`.
    pub(crate) fn new(longest: Duration) -> Self {
        let policy = ExponentialBuilder::new()
            .with_min_delay(FIRST.min(longest))
            .with_max_delay(longest)
            .without_max_times();
        Self {
            policy,
            ceilings: policy.build(),
        }
    }

    /// The next wait. `lasted` is how long the session that just ended was open, `directed` what
    /// the server asked for and `random` a number from 0 to 1.
    pub(crate) fn next(
        &mut self,
        lasted: Duration,
        directed: Option<Duration>,
        random: f64,
    ) -> Duration {
        if lasted >= STABLE {
            self.ceilings = self.policy.build();
        }
        if let Some(directed) = directed {
            return directed.min(LONGEST_DIRECTED);
        }
        let ceiling = self.ceilings.next().unwrap_or(LONGEST);
        ceiling.mul_f64(random.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn waits_stay_below_a_doubling_ceiling(randoms in prop::collection::vec(0.0f64..=1.0, 1..40)) {
            let mut backoff = Backoff::default();
            for (n, random) in randoms.into_iter().enumerate() {
                let ceiling = FIRST.saturating_mul(1u32 << n.min(10)).min(LONGEST);
                prop_assert!(backoff.next(Duration::ZERO, None, random) <= ceiling);
            }
        }

        #[test]
        fn what_the_server_asks_for_wins(millis in 0u64..3_600_000, random in 0.0f64..=1.0) {
            let asked = Duration::from_millis(millis);
            prop_assert_eq!(Backoff::default().next(Duration::ZERO, Some(asked), random), asked);
        }
    }

    #[test]
    fn only_a_stable_minute_starts_over() {
        let mut backoff = Backoff::default();
        for _ in 0..10 {
            backoff.next(Duration::from_secs(59), None, 1.0);
        }
        assert_eq!(backoff.next(Duration::from_secs(59), None, 1.0), LONGEST);
        assert_eq!(backoff.next(Duration::from_secs(60), None, 1.0), FIRST);
    }

    #[test]
    fn a_shorter_longest_wait_is_kept() {
        let longest = Duration::from_millis(1500);
        let mut backoff = Backoff::new(longest);
        let waits = [FIRST, longest, longest];
        for wait in waits {
            assert_eq!(backoff.next(Duration::ZERO, None, 1.0), wait);
        }
        assert_eq!(backoff.next(STABLE, None, 1.0), FIRST);
    }

    #[test]
    fn an_absurd_wish_is_cut() {
        let wait = Backoff::default().next(Duration::ZERO, Some(Duration::MAX), 0.5);
        assert_eq!(wait, LONGEST_DIRECTED);
    }
}
