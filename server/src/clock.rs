//! The only place that reads the wall clock, so that tests can move it and nobody else needs to.
//!
//! Instants are microseconds since the Unix epoch, as the database stores them. Elapsed time is measured
//! beside it on the boot clock, which nobody can set: when the two run apart, deadlines are not to be trusted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

const MICROS: i64 = 1_000_000;

/// Microseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The instant as it stands on the wire.
    #[must_use]
    pub fn to_proto(self) -> prost_types::Timestamp {
        prost_types::Timestamp {
            seconds: self.0.div_euclid(MICROS),
            nanos: (self.0.rem_euclid(MICROS) * 1000) as i32,
        }
    }

    /// Later by `by`; stays at the end of time instead of wrapping.
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(micros(by)))
    }

    /// Earlier by `by`; stays at the beginning of time instead of wrapping.
    #[must_use]
    pub fn minus(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(micros(by)))
    }

    /// How long after `earlier` this is; zero when it is not after it.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0).max(0) as u64)
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// Reads the time. Clones share everything.
#[derive(Debug, Clone)]
pub struct Clock(Arc<Anchor>);

/// Where wall clock and boot clock stood when the process began.
#[derive(Debug)]
struct Anchor {
    wall: i64,
    boot: i64,
    offset: AtomicI64,
}

impl Clock {
    /// The machine's clock. Debug builds add `KERNEX_TEST_CLOCK_OFFSET_SECONDS`, because a process cannot be given a
    /// clock of its own otherwise.
    #[must_use]
    pub fn system() -> Self {
        let offset = if cfg!(debug_assertions) {
            std::env::var("KERNEX_TEST_CLOCK_OFFSET_SECONDS")
                .ok()
                .and_then(|text| text.parse::<i64>().ok())
                .unwrap_or(0)
                .saturating_mul(MICROS)
        } else {
            0
        };
        Self(Arc::new(Anchor {
            wall: wall_clock(),
            boot: boot_clock(),
            offset: AtomicI64::new(offset),
        }))
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        Timestamp(wall_clock().saturating_add(self.0.offset.load(Ordering::Relaxed)))
    }

    /// What tests added to the machine's clock, in microseconds.
    pub(crate) fn offset_micros(&self) -> i64 {
        self.0.offset.load(Ordering::Relaxed)
    }

    /// How far the wall clock ran away from the boot clock since this clock was made.
    #[must_use]
    pub fn drift(&self) -> Duration {
        let wall = wall_clock() - self.0.wall;
        let boot = boot_clock() - self.0.boot;
        Duration::from_micros(wall.abs_diff(boot))
    }

    /// Lets time pass for tests, without the drift a jumping wall clock has.
    #[cfg(debug_assertions)]
    pub fn advance(&self, by: Duration) {
        self.0.offset.fetch_add(micros(by), Ordering::Relaxed);
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the one place")]
fn wall_clock() -> i64 {
    match std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) {
        Ok(since) => micros(since),
        Err(before) => -micros(before.duration()),
    }
}

/// Counts through a suspended machine too, as deadlines do.
fn boot_clock() -> i64 {
    #[cfg(target_os = "linux")]
    let clock = rustix::time::ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let clock = rustix::time::ClockId::Monotonic;
    let now = rustix::time::clock_gettime(clock);
    now.tv_sec * MICROS + now.tv_nsec / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_before_the_epoch_keep_positive_nanos() {
        let wire = Timestamp(-1).to_proto();
        assert_eq!((wire.seconds, wire.nanos), (-1, 999_999_000));
    }

    #[test]
    fn arithmetic_stays_at_the_ends_of_time() {
        let far = Timestamp(i64::MAX - 1);
        assert_eq!(far.plus(Duration::MAX), Timestamp(i64::MAX));
        assert_eq!(Timestamp(5).since(Timestamp(9)), Duration::ZERO);
    }

    #[test]
    fn advancing_moves_now_and_causes_no_drift() {
        let clock = Clock::system();
        let before = clock.now();
        clock.advance(Duration::from_secs(3600));
        assert!(clock.now().since(before) >= Duration::from_secs(3600));
        assert!(clock.drift() < Duration::from_secs(60));
    }
}
