//! Limits how many messages of a device are read in a second. Nothing that a device sends beyond
//! that is refused: it waits on the device's side. Only progress is dropped, because only the
//! newest counts.

use std::{
    num::NonZeroU32,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    middleware::NoOpMiddleware,
    state::{InMemoryState, NotKeyed},
};

/// Messages a second, heartbeats apart.
const RATE: NonZeroU32 = NonZeroU32::new(50).unwrap();
/// Messages at once.
const BURST: NonZeroU32 = NonZeroU32::new(200).unwrap();
/// Messages of one session, counted.
#[derive(Debug)]
pub(super) struct MessageRate<C: Clock = DefaultClock> {
    limiter: RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<C::Instant>>,
    /// The last message was one too many, and [`Self::wait`] was not called since.
    is_exceeded: AtomicBool,
}

impl Default for MessageRate {
    fn default() -> Self {
        Self::with_clock(DefaultClock::default())
    }
}

impl MessageRate {
    pub(super) fn count(&self) {
        self.is_exceeded
            .store(self.take().is_err(), Ordering::Relaxed);
    }

    /// Whether [`Self::wait`] has to be called before the next message is read.
    pub(super) fn is_exceeded(&self) -> bool {
        self.is_exceeded.load(Ordering::Relaxed)
    }

    /// Waits until the next message may be read.
    pub(super) async fn wait(&self) {
        while let Err(wait) = self.take() {
            tokio::time::sleep(wait).await;
        }
        self.is_exceeded.store(false, Ordering::Relaxed);
    }
}

impl<C: Clock> MessageRate<C> {
    fn with_clock(clock: C) -> Self {
        let quota = Quota::per_second(RATE).allow_burst(BURST);
        Self {
            limiter: RateLimiter::direct_with_clock(quota, clock),
            is_exceeded: AtomicBool::new(false),
        }
    }

    /// Counts a message, or says how long to wait before it is counted.
    fn take(&self) -> Result<(), Duration> {
        let taken = self.limiter.check();
        taken.map_err(|until| until.wait_time_from(self.limiter.clock().now()))
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    /// How many messages are read within a time, when there are always more.
    fn read_within(rate: &MessageRate<FakeRelativeClock>, mut left: Duration) -> u32 {
        let mut heard = 0;
        loop {
            match rate.take() {
                Ok(()) => heard += 1,
                Err(wait) if wait > left => return heard,
                Err(wait) => {
                    left -= wait;
                    rate.limiter.clock().advance(wait);
                }
            }
        }
    }

    #[test]
    fn a_burst_is_heard_at_once_and_what_follows_at_the_rate() {
        let rate = MessageRate::with_clock(FakeRelativeClock::default());
        assert_eq!(read_within(&rate, Duration::ZERO), BURST.get());
        let more = read_within(&rate, Duration::from_secs(10));
        assert!((495..=505).contains(&more), "{more}");
        // At most a burst is saved up.
        rate.limiter.clock().advance(Duration::from_secs(100_000));
        assert_eq!(read_within(&rate, Duration::ZERO), BURST.get());
    }

    #[test]
    fn who_keeps_to_the_rate_never_waits() {
        let rate = MessageRate::with_clock(FakeRelativeClock::default());
        for n in 0..10_000 {
            assert_eq!(rate.take(), Ok(()), "{n}");
            rate.limiter
                .clock()
                .advance(Duration::from_secs(1) / RATE.get());
        }
    }
}
