//! How fast bytes move: the speed of the last seconds, when all have moved at that speed, and for
//! how long none has.

use std::{
    collections::VecDeque,
    fmt,
    time::{Duration, Instant},
};

use indicatif::{ProgressState, style::ProgressTracker};

use crate::output::{bytes, seconds};

/// The speed is that of this much time.
const WINDOW: Duration = Duration::from_secs(5);
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// Before this much has passed a speed jumps, and says nothing about the end.
const STEADY: Duration = Duration::from_secs(3);
/// Bytes that do not move for this long stand still.
const STILL: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Default)]
pub(super) struct Pace {
    /// Where it was when, over the last seconds.
    seen: VecDeque<(Instant, u64)>,
    begun: Option<Instant>,
    /// When it moved last.
    moved: Option<Instant>,
}

impl Pace {
    fn note_position(&mut self, position: u64, now: Instant) {
        let last = self.seen.back().copied();
        self.begun.get_or_insert(now);
        if last.is_none_or(|(_, before)| before != position) {
            self.moved = Some(now);
        }
        match last {
            Some((at, _)) if now.duration_since(at) < LOOK => {}
            _ => self.seen.push_back((now, position)),
        }
        // One from before the window stays, so that the rest covers all of it.
        while self
            .seen
            .get(1)
            .is_some_and(|(at, _)| now.duration_since(*at) >= WINDOW)
        {
            self.seen.pop_front();
        }
    }

    /// ", 5.20 MiB/s, 38s left", or ", nothing has moved for 12s".
    fn text(&self, position: u64, total: u64, now: Instant) -> String {
        let (Some(begun), Some(moved)) = (self.begun, self.moved) else {
            return String::new();
        };
        let still = now.duration_since(moved);
        if still >= STILL && position < total {
            return format!(", nothing has moved for {}", seconds(still.as_secs()));
        }
        let Some((since, before)) = self.seen.front() else {
            return String::new();
        };
        let millis = now.duration_since(*since).as_millis();
        let past = u128::from(position.saturating_sub(*before));
        if millis < LOOK.as_millis() || past == 0 {
            return String::new();
        }
        let speed = u64::try_from(past * 1000 / millis).unwrap_or(u64::MAX);
        let mut text = format!(", {}/s", bytes(speed));
        if now.duration_since(begun) >= STEADY {
            let left = total.saturating_sub(position).div_ceil(speed.max(1));
            text.push_str(&format!(", {} left", seconds(left)));
        }
        text
    }
}

impl ProgressTracker for Pace {
    fn clone_box(&self) -> Box<dyn ProgressTracker> {
        Box::new(self.clone())
    }

    fn tick(&mut self, state: &ProgressState, now: Instant) {
        self.note_position(state.pos(), now);
    }

    fn reset(&mut self, _: &ProgressState, _: Instant) {
        *self = Self::default();
    }

    fn write(&self, state: &ProgressState, w: &mut dyn fmt::Write) {
        let text = self.text(state.pos(), state.len().unwrap_or(0), Instant::now());
        // A bar that cannot be drawn is none of the verb's business.
        let _ = w.write_str(&text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_end_is_told_once_the_speed_is_steady_and_a_standstill_as_one() {
        let start = Instant::now();
        let at = |tenths: u64| start + Duration::from_millis(tenths * 100);
        let mut pace = Pace::default();
        // A slow begin, then 10 MiB a second.
        let mut position = 0;
        for tenth in 0..=150 {
            position = if tenth < 10 { 0 } else { (tenth - 10) * MIB };
            pace.note_position(position, at(tenth));
            let text = pace.text(position, 1000 * MIB, at(tenth));
            if tenth < 30 {
                assert!(!text.contains("left"), "{tenth}: {text}");
            }
        }
        assert_eq!(
            pace.text(position, 1000 * MIB, at(150)),
            ", 10.00 MiB/s, 1m26s left"
        );
        // The link stands still: first the speed sinks, then nothing is said of an end.
        for tenth in 151..=270 {
            pace.note_position(position, at(tenth));
        }
        assert_eq!(
            pace.text(position, 1000 * MIB, at(270)),
            ", nothing has moved for 12s"
        );
        // It goes on.
        for tenth in 271..=330 {
            position += MIB;
            pace.note_position(position, at(tenth));
        }
        let text = pace.text(position, 1000 * MIB, at(330));
        assert!(text.starts_with(", 10.00 MiB/s, "), "{text}");
        assert!(pace.seen.len() < 60, "{}", pace.seen.len());
    }

    #[test]
    fn what_is_done_does_not_stand_still() {
        let start = Instant::now();
        let mut pace = Pace::default();
        pace.note_position(MIB, start);
        let later = start + Duration::from_secs(60);
        pace.note_position(MIB, later);
        assert_eq!(pace.text(MIB, MIB, later), "");
    }
}
