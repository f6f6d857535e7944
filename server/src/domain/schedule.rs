//! When work may begin: not before an instant, only within windows, and not everywhere at once.
//! Pure.
//!
//! A schedule only delays the beginning. An attempt that has begun goes on to its end, even when
//! its window closes meanwhile.

mod window;

use std::time::Duration;

use jiff::Timestamp as Instant;
use kernex_proto::ids::{DeploymentId, DeviceId, Digest};

pub use window::Window;

use crate::clock::Timestamp;

/// Longest spread. Openings are searched in the days around now, and a longer spread would reach
/// beyond them.
pub const MAX_SPREAD: Duration = Duration::from_secs(24 * 3600);

pub const MAX_WINDOWS: usize = 50;

/// How far ahead the next opening is searched. Two leap days are at most eight years apart.
const HORIZON_DAYS: i32 = 9 * 366;

/// When the targets of a deployment may begin.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Schedule {
    /// Not before this.
    pub start: Option<Timestamp>,
    /// Only while one of these is open. Without any, always.
    pub windows: Vec<Window>,
    /// Targets begin at random moments within this time.
    pub spread: Duration,
    /// Attempts that have not ended by then expire.
    pub deadline: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// It may, at least until `until`; `None` is for ever.
    Open {
        /// Since when; `None` is always.
        since: Option<Timestamp>,
        /// When it closes.
        until: Option<Timestamp>,
    },
    /// Not before `until`; `None` is never again.
    Closed { until: Option<Timestamp> },
}

impl Gate {
    /// Open at any time.
    pub const ALWAYS_OPEN: Self = Self::Open {
        since: None,
        until: None,
    };

    #[must_use]
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Open { .. })
    }
}

impl Schedule {
    /// Whether it delays nothing.
    #[must_use]
    pub fn is_at_once(&self) -> bool {
        self.start.is_none() && self.windows.is_empty() && self.spread.is_zero()
    }

    /// Whether work may begin now. Without a time that can be trusted, nothing begins that waits
    /// for one.
    #[must_use]
    pub fn gate_by(&self, time: Option<Timestamp>) -> Gate {
        match time {
            Some(now) => self.gate(now),
            None if self.start.is_none() && self.windows.is_empty() => Gate::ALWAYS_OPEN,
            None => Gate::Closed { until: None },
        }
    }

    /// Whether work may begin at an instant.
    #[must_use]
    pub fn gate(&self, now: Timestamp) -> Gate {
        let start = self.start.filter(|start| now < *start);
        if let Some(start) = start {
            return Gate::Closed {
                until: self.next_opening(start),
            };
        }
        if self.windows.is_empty() {
            return Gate::Open {
                since: self.start,
                until: None,
            };
        }
        match self.opening_at(now) {
            Some((opened, closes)) => Gate::Open {
                since: Some(self.start.map_or(opened, |start| start.max(opened))),
                until: Some(closes),
            },
            None => Gate::Closed {
                until: self.next_opening(now),
            },
        }
    }

    /// When work may begin next; `None` if it may begin now, or never again.
    #[must_use]
    pub fn opens_at(&self, now: Timestamp) -> Option<Timestamp> {
        match self.gate(now) {
            Gate::Open { .. } => None,
            Gate::Closed { until } => until,
        }
    }

    /// How long a target that was opened at `opened` waits until it may begin, if that is at most
    /// `soon`. `None` for later, and for never. Zero when it may begin now. Without a time that can
    /// be trusted it may only begin if nothing delays it.
    #[must_use]
    pub fn begins_within(
        &self,
        soon: Duration,
        opened: Timestamp,
        share: Share,
        time: Option<Timestamp>,
    ) -> Option<Duration> {
        let Some(now) = time else {
            return self.is_at_once().then_some(Duration::ZERO);
        };
        let gate = match self.gate(now) {
            // A search for openings takes long.
            Gate::Closed { until } => self.gate(until.filter(|until| *until <= now.plus(soon))?),
            open @ Gate::Open { .. } => open,
        };
        let Gate::Open { since, until } = gate else {
            return None;
        };
        let moment = self.moment(since, until, opened, share);
        // 0 when it has passed.
        let wait = moment.since(now);
        (wait <= soon).then_some(wait)
    }

    /// When a target that was opened at `opened` may begin, as far as is known now; `None` is
    /// never.
    #[must_use]
    pub fn begins_at(&self, opened: Timestamp, share: Share, now: Timestamp) -> Option<Timestamp> {
        let gate = match self.gate(now) {
            Gate::Closed { until } => self.gate(until?),
            open @ Gate::Open { .. } => open,
        };
        match gate {
            Gate::Open { since, until } => Some(self.moment(since, until, opened, share)),
            Gate::Closed { .. } => None,
        }
    }

    /// When a target begins within an opening. Its share of the spread counts from when it could
    /// have begun. An opening that is shorter than the spread has room for all shares.
    fn moment(
        &self,
        since: Option<Timestamp>,
        until: Option<Timestamp>,
        opened: Timestamp,
        share: Share,
    ) -> Timestamp {
        let from = since.map_or(opened, |since| since.max(opened));
        let room = until.map_or(Duration::MAX, |until| until.since(from));
        from.plus(share.of(self.spread.min(room)))
    }

    /// The opening at or after an instant.
    #[must_use]
    pub fn next_opening(&self, from: Timestamp) -> Option<Timestamp> {
        if self.windows.is_empty() {
            return Some(from);
        }
        let next = self.windows.iter().filter_map(|window| {
            let at = instant(from);
            let mut date = days_later(window.date(at), -2)?;
            for _ in 0..HORIZON_DAYS {
                let later = window
                    .openings(date)
                    .into_iter()
                    .find(|(_, closes)| *closes > at);
                if let Some((opens, _)) = later {
                    return Some(opens.max(at));
                }
                date = days_later(date, 1)?;
            }
            None
        });
        next.min().map(timestamp)
    }

    /// The field that is wrong when the schedule is made, and why; `None` for a good one.
    #[must_use]
    pub fn fault(&self, now: Timestamp) -> Option<(&'static str, String)> {
        if self.windows.len() > MAX_WINDOWS {
            let why = format!("a deployment has at most {MAX_WINDOWS} windows");
            return Some(("schedule.windows", why));
        }
        if self.spread > MAX_SPREAD {
            return Some(("schedule.spread_seconds", "it may be at most a day".into()));
        }
        let first = self.start.map_or(now, |start| start.max(now));
        for window in &self.windows {
            let alone = Self {
                windows: vec![window.clone()],
                ..Self::default()
            };
            if alone.next_opening(first).is_none() {
                let when = if self.start.is_some_and(|start| start > now) {
                    "never opens after the start"
                } else {
                    "never opens any more"
                };
                return Some(("schedule.windows", format!("`{window}` {when}")));
            }
        }
        let deadline = self.deadline?;
        if deadline <= first {
            let why = if deadline <= now {
                "it has passed already"
            } else {
                "it is before the start"
            };
            return Some(("schedule.deadline", why.into()));
        }
        let opens = self.next_opening(first)?;
        (opens >= deadline).then(|| ("schedule.deadline", "no window opens before it".into()))
    }

    /// The opening that an instant is in. Windows that touch are one.
    fn opening_at(&self, now: Timestamp) -> Option<(Timestamp, Timestamp)> {
        let at = instant(now);
        let mut spans: Vec<(Instant, Instant)> = Vec::new();
        for window in &self.windows {
            let today = window.date(at);
            let around = (-3..=3).filter_map(|days| days_later(today, days));
            spans.extend(around.flat_map(|date| window.openings(date)));
        }
        spans.sort_unstable();
        let mut merged: Option<(Instant, Instant)> = None;
        for (opens, closes) in spans {
            merged = match merged {
                Some((first, last)) if opens <= last => Some((first, last.max(closes))),
                Some((_, last)) if last > at => break,
                _ => Some((opens, closes)),
            };
        }
        let (opens, closes) = merged.filter(|(opens, closes)| *opens <= at && at < *closes)?;
        Some((timestamp(opens), timestamp(closes)))
    }
}

/// A target's place within a spread. It is always the same for that target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share(u32);

impl Share {
    /// The place of a device within a deployment.
    #[must_use]
    pub fn new(deployment: DeploymentId, device: DeviceId) -> Self {
        let mut both = b"spread".to_vec();
        both.extend_from_slice(deployment.0.as_bytes());
        both.extend_from_slice(device.0.as_bytes());
        let [a, b, c, d, ..] = Digest::of(&both).0;
        Self(u32::from_be_bytes([a, b, c, d]))
    }

    /// This share of a spread.
    fn of(self, spread: Duration) -> Duration {
        let micros = spread.as_micros().saturating_mul(u128::from(self.0)) >> 32;
        Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }
}

fn instant(at: Timestamp) -> Instant {
    Instant::from_microsecond(at.0).unwrap_or(if at.0 < 0 { Instant::MIN } else { Instant::MAX })
}

fn timestamp(at: Instant) -> Timestamp {
    Timestamp(at.as_microsecond())
}

fn days_later(date: jiff::civil::Date, days: i32) -> Option<jiff::civil::Date> {
    date.checked_add(jiff::Span::new().days(days)).ok()
}

#[cfg(test)]
mod tests;
