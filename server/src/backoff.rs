//! How long to wait before something is tried again, and how long to leave the store alone.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};

/// A reader that comes again and again waits so many times as long as its read took.
const LEFT_ALONE: u32 = 3;

/// Waits that double from `first` up to `longest`, and then go on.
pub(crate) fn doubling(first: Duration, longest: Duration) -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(first)
        .with_max_delay(longest)
        .without_max_times()
        .build()
}

/// The pause after a read that took `cost`, so that its reader uses the store for at most a quarter
/// of the time.
pub(crate) fn leave_alone(cost: Duration, longest: Duration) -> Duration {
    cost.saturating_mul(LEFT_ALONE).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_go_on() {
        let (first, longest) = (Duration::from_millis(200), Duration::from_secs(5));
        let waits: Vec<_> = doubling(first, longest).take(40).collect();
        let millis: Vec<_> = waits[..7].iter().map(Duration::as_millis).collect();
        assert_eq!(millis, [200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(waits.last(), Some(&longest));
    }

    #[test]
    fn expensive_reads_are_made_less_often() {
        let longest = Duration::from_secs(10);
        assert_eq!(leave_alone(Duration::from_secs(1), longest).as_secs(), 3);
        assert_eq!(leave_alone(Duration::from_secs(9), longest), longest);
        assert_eq!(leave_alone(Duration::MAX, longest), longest);
    }
}
