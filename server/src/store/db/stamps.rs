//! The store's clock: the clock of the database, kept from running back and from jumping.

use std::{sync::atomic::Ordering, time::Duration};

use crate::{
    clock::{ClockReading, Timestamp},
    store::db::store::Store,
};

/// Difference between the clock and the boot clock beyond which deadlines are not trusted.
const MAX_DRIFT: Duration = Duration::from_secs(5 * 60);

impl Store {
    /// Now, on the database's clock. When that clock is set back far, time goes on from where it
    /// was. Otherwise deadlines that are set meanwhile would be overdue once the clock is right
    /// again.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.now_at(self.0.clock.read())
    }

    fn now_at(&self, reading: ClockReading) -> Timestamp {
        let ahead = self.0.ahead.load(Ordering::Relaxed);
        self.never_back(reading.now().0.saturating_add(ahead), reading)
    }

    fn never_back(&self, now: i64, reading: ClockReading) -> Timestamp {
        let drift = self.drift(reading);
        if drift < 0 && !is_trusted(drift) {
            return Timestamp(now.saturating_sub(drift));
        }
        Timestamp(now)
    }

    /// How far the clock for deadlines has run away from the boot clock since this process started.
    #[must_use]
    pub fn clock_drift(&self) -> Duration {
        Duration::from_micros(self.drift(self.0.clock.read()).unsigned_abs())
    }

    fn drift(&self, reading: ClockReading) -> i64 {
        let ahead = self.0.ahead.load(Ordering::Relaxed);
        let first = self.0.first_ahead.get().copied().unwrap_or(ahead);
        let jumped = ahead.saturating_sub(first);
        reading.drift.saturating_add(jumped)
    }

    /// Now; by the boot clock while the clock is not trusted, so that a jump locks nobody out.
    pub(crate) fn steady_now(&self) -> Timestamp {
        let drift = self.drift(self.0.clock.read());
        let now = self.now();
        if drift <= 0 || is_trusted(drift) {
            return now;
        }
        Timestamp(now.0.saturating_sub(drift))
    }

    /// Whether deadlines count. While the clock is far from where it should be, nothing expires and
    /// nothing old is deleted. That ends when the clock is right again, or with a restart, which
    /// accepts it.
    #[must_use]
    pub fn trusts_clock(&self) -> bool {
        self.trusts(self.0.clock.read())
    }

    fn trusts(&self, reading: ClockReading) -> bool {
        is_trusted(self.drift(reading))
    }

    /// Now, for decisions that time alone makes; `None` while the clock is not trusted.
    pub(crate) fn time(&self) -> Option<Timestamp> {
        // One reading for both. A jump between two readings would make a wrong time trusted.
        let reading = self.0.clock.read();
        self.trusts(reading).then(|| self.now_at(reading))
    }

    /// The stamp of a transaction by this machine's clock, and whether the clock is trusted.
    pub(crate) fn stamp(&self) -> (Timestamp, bool) {
        let reading = self.0.clock.read();
        (self.stamp_at(self.now_at(reading).0), self.trusts(reading))
    }

    /// The same by the clock of the database, which is compared with this machine's clock.
    pub(crate) fn stamp_from(&self, database: i64) -> (Timestamp, bool) {
        let reading = self.0.clock.read();
        let now = database.saturating_add(reading.offset);
        let ahead = database.saturating_sub(reading.wall);
        self.0.first_ahead.get_or_init(|| ahead);
        self.0.ahead.store(ahead, Ordering::Relaxed);
        let stamp = self.stamp_at(self.never_back(now, reading).0);
        (stamp, self.trusts(reading))
    }

    /// Stamps grow even where the clock stands still or steps back a little. A clock that is set
    /// back further was wrong before. To go on from the wrong time would keep every deadline wrong.
    fn stamp_at(&self, now: i64) -> Timestamp {
        let back = i64::try_from(MAX_DRIFT.as_micros()).unwrap_or(i64::MAX);
        let next = |last: i64| {
            if now > last || last.saturating_sub(now) > back {
                now
            } else {
                last + 1
            }
        };
        let last = &self.0.last;
        let before = last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
            Some(next(last))
        });
        Timestamp(next(before.unwrap_or_else(|last| last)))
    }
}

fn is_trusted(drift: i64) -> bool {
    Duration::from_micros(drift.unsigned_abs()) <= MAX_DRIFT
}
