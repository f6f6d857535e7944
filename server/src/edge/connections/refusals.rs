//! What the log says about refused strangers: one line a minute for each source, however often they
//! come.

use std::{
    collections::{HashMap, hash_map::Entry},
    time::Duration,
};

use tokio::time::Instant;

use super::source::Source;

/// Time between two lines about a source.
const LINE_EVERY: Duration = Duration::from_secs(60);
/// Sources that are told apart in that time. All others share one line.
const MOST_SOURCES: usize = 1024;

/// When the log last had a line about each source. Sources that came when there were too many share
/// the entry `None`.
#[derive(Debug, Default)]
pub(super) struct Refusals(HashMap<Option<Source>, LastLogged>);

#[derive(Debug)]
struct LastLogged {
    at: Instant,
    untold: u64,
}

/// A line for the log.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LogLine {
    /// `None` for the sources that share a line.
    pub(super) source: Option<Source>,
    /// How many were refused since the last line about it.
    pub(super) untold: u64,
}

impl Refusals {
    /// Notes one more refusal. Returns the line to log about it, if there is one.
    pub(super) fn note(&mut self, source: Source, now: Instant) -> Option<LogLine> {
        let mut source = Some(source);
        if self.0.len() >= MOST_SOURCES && !self.0.contains_key(&source) {
            self.0.retain(|_, told| now < told.at + LINE_EVERY);
            source = source.filter(|_| self.0.len() < MOST_SOURCES);
        }
        let told = match self.0.entry(source) {
            Entry::Vacant(none) => {
                none.insert(LastLogged { at: now, untold: 0 });
                return Some(LogLine { source, untold: 0 });
            }
            Entry::Occupied(told) => told.into_mut(),
        };
        if now < told.at + LINE_EVERY {
            told.untold += 1;
            return None;
        }
        told.at = now;
        let untold = std::mem::take(&mut told.untold);
        Some(LogLine { source, untold })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn source(number: u32) -> Source {
        Source::V4(Ipv4Addr::from_bits(number))
    }

    #[test]
    fn a_source_is_told_once_a_minute_with_how_often_it_was_not() {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        let line = |source, untold| Some(LogLine { source, untold });
        assert_eq!(refusals.note(source(1), now), line(Some(source(1)), 0));
        assert_eq!(refusals.note(source(1), now + LINE_EVERY / 2), None);
        assert_eq!(
            refusals.note(source(2), now + LINE_EVERY / 2),
            line(Some(source(2)), 0)
        );
        assert_eq!(
            refusals.note(source(1), now + LINE_EVERY),
            line(Some(source(1)), 1)
        );
    }

    #[test]
    fn many_sources_share_one_line_and_are_forgotten() {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        let lines = (0..100_000).filter_map(|number| refusals.note(source(number), now));
        assert_eq!(lines.count(), MOST_SOURCES + 1);
        assert!(refusals.0.len() <= MOST_SOURCES + 1);
        let later = refusals.note(source(200_000), now + LINE_EVERY);
        assert_eq!(later.and_then(|line| line.source), Some(source(200_000)));
        assert_eq!(refusals.0.len(), 1);
    }
}
