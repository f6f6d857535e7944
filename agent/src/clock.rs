//! The two clocks of a device: the boot clock measures, the wall clock is only shown.
//!
//! Devices boot in 1970 and jump by years, so nothing is ever decided by the wall clock. Durations
//! are measured with `CLOCK_BOOTTIME`, which keeps counting while the machine sleeps and means
//! something until the next boot.

use std::{fs, time::Duration};

use rustix::time::{ClockId, clock_gettime};

/// How long a sleep may go on before the boot clock is read again; a suspended machine stops
/// tokio's timers.
const RECHECK: Duration = Duration::from_secs(5);

/// Time since the machine booted, including sleep.
pub(crate) fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(
        u64::try_from(now.tv_sec).unwrap_or(0),
        u32::try_from(now.tv_nsec).unwrap_or(0),
    )
}

/// Identifies this boot of the machine; instants of [`since_boot`] compare only within one.
pub(crate) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

/// The wall clock, for showing and for dating tombstones.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the one place that reads the wall clock"
)]
pub(crate) fn wall() -> prost_types::Timestamp {
    let mut now = prost_types::Timestamp::from(std::time::SystemTime::now());
    now.seconds += jumped();
    now
}

/// Seconds tests jump the wall clock by: those in the file that `KERNEX_TEST_CLOCK_FILE` names, in
/// debug builds.
fn jumped() -> i64 {
    if !cfg!(debug_assertions) {
        return 0;
    }
    let file = std::env::var_os("KERNEX_TEST_CLOCK_FILE");
    let text = file.and_then(|file| fs::read_to_string(file).ok());
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// Sleeps until the boot clock reaches `instant`, also over a suspend.
pub(crate) async fn sleep_until(instant: Duration) {
    loop {
        let left = instant.saturating_sub(since_boot());
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(RECHECK)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sleeping_ends_at_the_instant() {
        let start = since_boot();
        sleep_until(start + Duration::from_millis(20)).await;
        assert!(since_boot() >= start + Duration::from_millis(20));
    }

    #[test]
    fn a_boot_has_an_id() {
        assert_eq!(boot_id().len(), 36);
    }
}
