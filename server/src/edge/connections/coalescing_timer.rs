//! A timer that puts each deadline off to the end of a tick, so that many deadlines become one
//! wake-up.

use std::{
    pin::Pin,
    time::{Duration, Instant},
};

use hyper::rt::{Sleep, Timer};
use hyper_util::rt::TokioTimer;

/// Length of a tick. Ten thousand quiet connections need five hundred pings a second, and a wake-up
/// costs more than a ping. With ticks there are twenty wake-ups a second. A push waits for no more
/// pings than are due in one tick.
const TICK: Duration = Duration::from_millis(50);

/// The runtime's timer, with each deadline put off to the end of its tick.
#[derive(Debug, Clone)]
pub(super) struct CoalescingTimer {
    start: Instant,
    timer: TokioTimer,
}

impl Default for CoalescingTimer {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            timer: TokioTimer::new(),
        }
    }
}

impl Timer for CoalescingTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        self.timer.sleep_until(end_of_tick(self.start, deadline))
    }

    fn now(&self) -> Instant {
        self.timer.now()
    }

    fn reset(&self, sleep: &mut Pin<Box<dyn Sleep>>, deadline: Instant) {
        self.timer.reset(sleep, end_of_tick(self.start, deadline));
    }
}

/// The first end of a tick that is not before `at`.
fn end_of_tick(start: Instant, at: Instant) -> Instant {
    let tick = TICK.as_nanos();
    let past = at.saturating_duration_since(start).as_nanos();
    let missing = (tick - past % tick) % tick;
    at + Duration::from_nanos(u64::try_from(missing).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_put_off_to_the_end_of_its_tick() {
        let start = Instant::now();
        let table = [
            (0, 0),
            (1, 50_000),
            (49_999, 50_000),
            (50_000, 50_000),
            (50_001, 100_000),
            (20_012_345, 20_050_000),
        ];
        for (at, expected) in table {
            let end = end_of_tick(start, start + Duration::from_micros(at));
            assert_eq!((end - start).as_micros(), expected, "{at} us");
        }
    }
}
