//! How fast a download may come, and how much of it may be on its way; pure.
//!
//! Bytes on their way queue before the narrowest link, and messages of the session queue behind
//! them. So the window is never more than arrives in half a second.

use std::{num::NonZeroU64, time::Duration};

use tokio::time::Instant;

/// Window of every download at first, and of a slow one for ever.
pub(super) const LEAST_WINDOW: u32 = 64 * 1024;
/// Largest window. A window is a promise, not memory: it costs only what arrives faster than it is
/// written.
pub(super) const MOST_WINDOW: u32 = 4 * 1024 * 1024;
/// Time over which the rate is measured.
const SAMPLE: Duration = Duration::from_millis(250);

#[derive(Debug)]
pub(super) struct Pace {
    /// Most bytes a second.
    limit: Option<NonZeroU64>,
    window: u32,
    sample: u64,
    sample_began: Instant,
    /// When everything read so far would have arrived at exactly the limit.
    due: Instant,
}

impl Pace {
    pub(super) fn new(limit: Option<NonZeroU64>, now: Instant) -> Self {
        Self {
            limit,
            window: LEAST_WINDOW,
            sample: 0,
            sample_began: now,
            due: now,
        }
    }

    /// Bytes that may be on their way.
    pub(super) fn window(&self) -> u32 {
        self.window
    }

    /// Notes what was read. The next piece is not read before the instant it gives.
    pub(super) fn read(&mut self, bytes: usize, now: Instant) -> Option<Instant> {
        self.sample += bytes as u64;
        let elapsed = now - self.sample_began;
        if elapsed >= SAMPLE {
            self.window = window(self.sample, elapsed);
            self.sample = 0;
            self.sample_began = now;
        }
        let nanos = bytes as u128 * 1_000_000_000 / u128::from(self.limit?.get());
        let takes = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        // Time that was not used is not saved for later.
        self.due = self.due.max(now) + takes;
        Some(self.due)
    }
}

/// Bytes that arrive in half a second.
fn window(bytes: u64, elapsed: Duration) -> u32 {
    let half_second = u128::from(bytes) * 500 / elapsed.as_millis().max(1);
    let window = u32::try_from(half_second).unwrap_or(MOST_WINDOW);
    window.clamp(LEAST_WINDOW, MOST_WINDOW)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_window_is_what_comes_in_half_a_second() {
        let table = [
            (0, 250, LEAST_WINDOW),
            (40_000, 1_000, LEAST_WINDOW),
            (150_000, 1_000, 75_000),
            (250_000, 250, 500_000),
            (1 << 30, 250, MOST_WINDOW),
            (u64::MAX, 250, MOST_WINDOW),
            (150_000, 30_000, LEAST_WINDOW),
        ];
        for (bytes, millis, expected) in table {
            let elapsed = Duration::from_millis(millis);
            assert_eq!(window(bytes, elapsed), expected, "{bytes} in {millis} ms");
        }
    }

    #[test]
    fn a_window_grows_and_shrinks_with_the_rate() {
        let begun = Instant::now();
        let mut pace = Pace::new(None, begun);
        assert_eq!(pace.window(), LEAST_WINDOW);
        let mut now = begun;
        let mut read = |bytes: usize, millis| {
            now += Duration::from_millis(millis);
            assert_eq!(pace.read(bytes, now), None, "nothing is held back");
            pace.window()
        };
        assert_eq!(read(100_000, 100), LEAST_WINDOW, "the sample is not over");
        assert_eq!(read(400_000, 150), 1_000_000);
        assert_eq!(read(10_000, 250), LEAST_WINDOW);
    }

    proptest! {
        #[test]
        fn a_limit_is_kept_to(
            limit in 1_024u64..50_000_000,
            pieces in prop::collection::vec((1usize..262_144, 0u64..400), 1..60),
        ) {
            let begun = Instant::now();
            let mut pace = Pace::new(NonZeroU64::new(limit), begun);
            let (mut now, mut total) = (begun, 0);
            for (bytes, later) in pieces {
                // A reader that comes when it is told, or later.
                now += Duration::from_millis(later);
                now = pace.read(bytes, now).expect("there is a limit").max(now);
                total += bytes as u64;
                let allowed = u128::from(limit) * (now - begun).as_nanos() / 1_000_000_000;
                // Each piece is cut to a nanosecond.
                prop_assert!(u128::from(total) <= allowed + 60);
            }
        }
    }
}
