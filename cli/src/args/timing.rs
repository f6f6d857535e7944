//! Options of `deploy` that say when work may begin.

use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use kernex_proto::v1;

use super::{
    times::{End, parse_end},
    values::parse_duration,
};

/// Flags of `deploy` about time. They delay beginnings; what has begun may finish.
#[derive(Debug, Clone, Args)]
pub(crate) struct TimingArgs {
    /// Begin after this long, e.g. 2h, or at this time, e.g. 2027-02-03T04:05:00Z or
    /// '2027-02-03 04:05 Europe/Berlin'
    #[arg(long, value_parser = parse_start, value_name = "DURATION|TIME")]
    at: Option<Timestamp>,
    /// Begin on devices only within this window, e.g. 'Mon-Fri 02:00-04:00 Europe/Berlin'
    /// (repeatable)
    #[arg(long = "window", value_name = "WINDOW")]
    windows: Vec<String>,
    /// Spread the beginnings over this much time, so that not every device downloads at once; at
    /// most 1d
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    spread: Option<Duration>,
    /// Give up what has not ended after this long, or at this time
    #[arg(long, value_parser = parse_end, value_name = "DURATION|TIME")]
    deadline: Option<End>,
    /// Also deploy to devices that match --to later; ends at its deadline or when it is cancelled
    #[arg(long, requires = "to")]
    pub(crate) dynamic: bool,
}

/// Reads a time, or how long it is until then: `2h`, `+2h`.
fn parse_start(text: &str) -> Result<Timestamp, String> {
    match parse_end(text.strip_prefix('+').unwrap_or(text))? {
        End::At(time) => Ok(time),
        End::After(wait) => Timestamp::now()
            .checked_add(wait)
            .map_err(|_| format!("`{text}` is after all time")),
    }
}

/// A start this long ago is still accepted: typing takes a while, and clocks differ.
const START_PASSED: Duration = Duration::from_secs(60);

impl TimingArgs {
    /// Whether the start lies in the past, by the clock of this machine.
    pub(crate) fn starts_in_the_past(&self, now: Timestamp) -> bool {
        self.at.is_some_and(|at| {
            let passed = now.as_second().saturating_sub(at.as_second());
            passed > START_PASSED.as_secs().cast_signed()
        })
    }

    /// Whether the deadline lies in the past, by the clock of this machine.
    pub(crate) fn ends_in_the_past(&self, now: Timestamp) -> bool {
        matches!(self.deadline, Some(End::At(at)) if at <= now)
    }

    /// As it is sent to the server; none when no flag was given.
    pub(crate) fn schedule(&self) -> Option<v1::Schedule> {
        let wire = |time: Timestamp| prost_types::Timestamp {
            seconds: time.as_second(),
            nanos: time.subsec_nanosecond(),
        };
        let (deadline, after) = match self.deadline {
            None => (None, 0),
            Some(End::At(time)) => (Some(wire(time)), 0),
            Some(End::After(after)) => (None, after.as_secs()),
        };
        let schedule = v1::Schedule {
            start_at: self.at.map(wire),
            windows: self.windows.clone(),
            spread_seconds: self.spread.map_or(0, |spread| spread.as_secs()),
            deadline,
            deadline_seconds: after,
        };
        (schedule != v1::Schedule::default()).then_some(schedule)
    }
}
