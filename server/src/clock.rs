//! The only place that reads the wall clock, so that tests can move it.
//!
//! Instants are microseconds since the Unix epoch, as the database stores them. Elapsed time is
//! also measured on the boot clock, which nobody can set. When the two run apart, deadlines are not
//! to be trusted.

use std::{
    path::PathBuf,
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
    #[must_use]
    pub fn to_proto(self) -> prost_types::Timestamp {
        prost_types::Timestamp {
            seconds: self.0.div_euclid(MICROS),
            nanos: (self.0.rem_euclid(MICROS) * 1000) as i32,
        }
    }

    /// `None` when it is outside of any calendar.
    #[must_use]
    pub fn from_proto(wire: &prost_types::Timestamp) -> Option<Self> {
        let nanos = (0..1_000_000_000)
            .contains(&wire.nanos)
            .then_some(wire.nanos)?;
        let micros = wire.seconds.checked_mul(MICROS)?;
        Some(Self(micros.checked_add(i64::from(nanos) / 1000)?))
    }

    /// Stays at the end of time instead of wrapping.
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(micros(by)))
    }

    /// Stays at the beginning of time instead of wrapping.
    #[must_use]
    pub fn minus(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(micros(by)))
    }

    /// How long after `earlier` this is. Zero when it is not after it.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0).max(0) as u64)
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// Clones share everything.
#[derive(Debug, Clone)]
pub struct Clock(Arc<Anchor>);

/// What wall clock and boot clock showed when the process began.
#[derive(Debug)]
struct Anchor {
    wall: i64,
    boot: i64,
    /// How far tests had moved the wall clock by then.
    jumped: i64,
    offset: AtomicI64,
    jump: Jump,
}

/// The clocks at one moment, in microseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClockReading {
    pub(crate) wall: i64,
    /// What tests have added.
    pub(crate) offset: i64,
    /// How far the wall clock has run ahead of the boot clock since the clock was made.
    pub(crate) drift: i64,
}

impl ClockReading {
    pub(crate) fn now(self) -> Timestamp {
        Timestamp(self.wall.saturating_add(self.offset))
    }
}

/// Lets tests jump the wall clock, which a single process cannot do. Does nothing in release
/// builds.
#[derive(Debug, Default)]
struct Jump {
    micros: AtomicI64,
    /// A file with seconds, which a test writes.
    file: Option<PathBuf>,
}

impl Jump {
    fn micros(&self) -> i64 {
        let seconds = self
            .file
            .as_ref()
            .and_then(|file| std::fs::read_to_string(file).ok())
            .and_then(|text| text.trim().parse::<i64>().ok())
            .unwrap_or(0);
        let jumped = self.micros.load(Ordering::Relaxed);
        jumped.saturating_add(seconds.saturating_mul(MICROS))
    }
}

impl Clock {
    /// The machine's clock. Debug builds add the seconds in the file that `KERNEX_TEST_CLOCK_FILE`
    /// names, because no process can be given a clock of its own.
    #[must_use]
    pub fn system() -> Self {
        let mut jump = Jump::default();
        if cfg!(debug_assertions) {
            jump.file = std::env::var_os("KERNEX_TEST_CLOCK_FILE").map(PathBuf::from);
        }
        Self(Arc::new(Anchor {
            wall: wall_clock(),
            boot: boot_clock(),
            jumped: jump.micros(),
            offset: AtomicI64::new(0),
            jump,
        }))
    }

    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.read().now()
    }

    /// Microseconds by which the wall clock has run ahead of the boot clock since this clock was
    /// made.
    #[must_use]
    pub fn drift_micros(&self) -> i64 {
        self.read().drift
    }

    /// Reads all clocks at one moment. Two readings with a jump between them would not fit
    /// together.
    pub(crate) fn read(&self) -> ClockReading {
        let (wall, boot) = (wall_clock(), boot_clock());
        let jump = self.0.jump.micros();
        let ran = (wall - self.0.wall) - (boot - self.0.boot);
        ClockReading {
            wall,
            offset: self.0.offset.load(Ordering::Relaxed).saturating_add(jump),
            drift: ran.saturating_add(jump.saturating_sub(self.0.jumped)),
        }
    }

    /// Jumps the wall clock forwards or back, for tests.
    #[cfg(debug_assertions)]
    pub fn jump(&self, seconds: i64) {
        let micros = seconds.saturating_mul(MICROS);
        self.0.jump.micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// Lets time pass, for tests. Wall clock and boot clock do not run apart.
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

/// Counts while the machine is suspended, too, as deadlines do.
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
        assert_eq!(Timestamp::from_proto(&wire), Some(Timestamp(-1)));
        for (seconds, nanos) in [(i64::MAX, 0), (0, -1), (0, 1_000_000_000)] {
            let wire = prost_types::Timestamp { seconds, nanos };
            assert_eq!(Timestamp::from_proto(&wire), None);
        }
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
        assert!(clock.drift_micros().abs() < 60 * MICROS);
    }

    #[test]
    fn a_jump_moves_now_and_is_drift() {
        let clock = Clock::system();
        let before = clock.now();
        clock.jump(-3600);
        assert!(clock.now() < before);
        assert!((clock.drift_micros() + 3600 * MICROS).abs() < 60 * MICROS);
        clock.jump(3600);
        assert!(clock.now() >= before && clock.drift_micros().abs() < 60 * MICROS);
    }
}
