//! One maintenance window: on which days, between which hours, in which time zone.
//!
//! `Mon-Fri 02:00-04:00 Europe/Berlin`, `Sat,Sun 22:00-06:00 UTC`, `daily 01:00-03:00
//! America/New_York`, `Dec 24 00:00-24:00 Europe/Paris`, `2027-02-03 04:00-05:00 UTC`.
//!
//! A window is open while a clock on a wall in that zone shows a time within it. An hour that is
//! skipped in spring is no part of it, and one that comes twice in autumn is in it twice. A window
//! that ends before it begins goes on after midnight, and belongs to the day on which it opened.

use std::fmt;

use jiff::{
    Timestamp, ToSpan as _,
    civil::{Date, DateTime, Weekday},
    tz::{Offset, TimeZone},
};

use crate::domain::parse_error::ParseError;

const DAY_MINUTES: i32 = 24 * 60;

const WEEKDAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    days: Days,
    /// Minutes after midnight.
    from: i32,
    /// Minutes after the same midnight, later than `from`. More than a day when the window ends on
    /// the next day.
    to: i32,
    zone: TimeZone,
    zone_name: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Days {
    /// Monday first.
    Weekly([bool; 7]),
    /// Month and day.
    Yearly(i8, i8),
    Once(Date),
}

impl Window {
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let words: Vec<(usize, &str)> = words(text).collect();
        let wrong = |at: usize, why: &str| Err(ParseError::at_byte(text, at, why));
        // The hours are the only word with a colon. The days stand before them, and the zone after
        // them.
        let Some(hours) = words.iter().position(|(_, word)| word.contains(':')) else {
            return wrong(
                text.len(),
                "hours such as 02:00-04:00 were expected; write e.g. `Mon-Fri 02:00-04:00 Europe/Berlin`",
            );
        };
        let (at, span) = words[hours];
        let days = days(text, at, &words[..hours])?;
        let (from, to) = span_of(text, at, span)?;
        let (zone_at, zone_name) = match &words[hours + 1..] {
            [one] => *one,
            [] => {
                return wrong(
                    text.len(),
                    "a time zone was expected after the hours, such as UTC or Europe/Berlin",
                );
            }
            [_, (at, _), ..] => return wrong(*at, "nothing was expected after the time zone"),
        };
        let zone = TimeZone::get(zone_name).map_err(|_| {
            let why = format!("`{zone_name}` is no time zone; write e.g. UTC or Europe/Berlin");
            ParseError::at_byte(text, zone_at, why)
        })?;
        Ok(Self {
            days,
            from,
            to,
            zone_name: zone.iana_name().unwrap_or(zone_name).to_owned(),
            zone,
        })
    }

    /// The calendar day in the zone.
    pub(super) fn date(&self, at: Timestamp) -> Date {
        self.zone.to_datetime(at).date()
    }

    pub(super) fn is_on(&self, date: Date) -> bool {
        match self.days {
            Days::Weekly(days) => days[date.weekday().to_monday_zero_offset() as usize],
            Days::Yearly(month, day) => (date.month(), date.day()) == (month, day),
            Days::Once(only) => date == only,
        }
    }

    /// The spans in which it is open because of this day, in order: none, one, or two if clocks are
    /// put back in between.
    pub(super) fn openings(&self, date: Date) -> Vec<(Timestamp, Timestamp)> {
        if !self.is_on(date) {
            return Vec::new();
        }
        let midnight = DateTime::from_parts(date, jiff::civil::Time::midnight());
        let (Ok(from), Ok(to)) = (
            midnight.checked_add(self.from.minutes()),
            midnight.checked_add(self.to.minutes()),
        ) else {
            return Vec::new();
        };
        let mut spans: Vec<(Timestamp, Timestamp)> = Vec::new();
        for (begin, end, offset) in self.offsets(from, to) {
            let (Ok(opens), Ok(closes)) = (offset.to_timestamp(from), offset.to_timestamp(to))
            else {
                continue;
            };
            let (opens, closes) = (opens.max(begin), closes.min(end));
            if opens >= closes {
                continue;
            }
            match spans.last_mut() {
                Some(last) if last.1 >= opens => last.1 = closes,
                _ => spans.push((opens, closes)),
            }
        }
        spans
    }

    /// The spans around two local times within which the offset from UTC stays the same.
    fn offsets(&self, from: DateTime, to: DateTime) -> Vec<(Timestamp, Timestamp, Offset)> {
        let around = |time: DateTime, hours: i64| {
            let utc = Offset::UTC.to_timestamp(time).unwrap_or(Timestamp::MIN);
            utc.checked_add(hours.hours()).unwrap_or(utc)
        };
        // No zone is further from UTC.
        let (mut begin, last) = (around(from, -30), around(to, 30));
        let mut stretches = Vec::new();
        let changes = self.zone.following(begin);
        for change in changes.take_while(|change| change.timestamp() < last) {
            stretches.push((begin, change.timestamp(), self.zone.to_offset(begin)));
            begin = change.timestamp();
        }
        stretches.push((begin, last, self.zone.to_offset(begin)));
        stretches
    }
}

/// The canonical text. It parses to the same window.
impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.days {
            Days::Weekly([true, true, true, true, true, true, true]) => f.write_str("daily")?,
            Days::Weekly(days) => {
                let named = WEEKDAYS.iter().zip(days).filter(|(_, on)| *on);
                let names: Vec<&str> = named.map(|(name, _)| *name).collect();
                f.write_str(&names.join(","))?;
            }
            Days::Yearly(month, day) => write!(f, "{} {day}", MONTHS[month as usize - 1])?,
            Days::Once(date) => write!(f, "{date}")?,
        }
        let end = if self.to > DAY_MINUTES {
            self.to - DAY_MINUTES
        } else {
            self.to
        };
        let clock = |minutes: i32| format!("{:02}:{:02}", minutes / 60, minutes % 60);
        write!(f, " {}-{} {}", clock(self.from), clock(end), self.zone_name)
    }
}

/// The words, with the bytes they begin at.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.split_whitespace()
        .map(move |word| (word.as_ptr() as usize - text.as_ptr() as usize, word))
}

fn days(text: &str, hours_at: usize, words: &[(usize, &str)]) -> Result<Days, ParseError> {
    let wrong = |at: usize, why: String| Err(ParseError::at_byte(text, at, why));
    match words {
        [] => wrong(
            hours_at,
            "days were expected before the hours: weekdays such as Mon-Fri, `daily`, or a date"
                .into(),
        ),
        [(_, word)] if word.eq_ignore_ascii_case("daily") || *word == "*" => {
            Ok(Days::Weekly([true; 7]))
        }
        [(at, word)] if word.starts_with(|c: char| c.is_ascii_digit()) => match word.parse() {
            Ok(date) => Ok(Days::Once(date)),
            Err(_) => wrong(
                *at,
                format!("`{word}` is no day of any calendar; write e.g. 2027-02-03"),
            ),
        },
        [(at, list)] => weekdays(text, *at, list),
        [(at, month), (day_at, day)] => {
            let Some(index) = position(&MONTHS, month) else {
                return wrong(*at, format!("`{month}` is no month; write e.g. Feb 14"));
            };
            let month = index as i8 + 1;
            // A leap year has all days there are.
            match day
                .parse::<i8>()
                .ok()
                .filter(|day| Date::new(2024, month, *day).is_ok())
            {
                Some(day) => Ok(Days::Yearly(month, day)),
                None => wrong(
                    *day_at,
                    format!(
                        "{} never has a day `{day}`, so this window never opens",
                        MONTHS[index]
                    ),
                ),
            }
        }
        [_, _, (at, _), ..] => wrong(*at, "the hours were expected after the days".into()),
    }
}

fn weekdays(text: &str, at: usize, list: &str) -> Result<Days, ParseError> {
    let mut days = [false; 7];
    let mut at = at;
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let find = |name: &str, at: usize| {
            position(&WEEKDAYS, name).ok_or_else(|| {
                let why =
                    format!("`{name}` is no weekday; write Mon, Tue, Wed, Thu, Fri, Sat or Sun");
                ParseError::at_byte(text, at, why)
            })
        };
        let last_at = at + part.len() - last.len();
        let (first, last) = (find(first, at)?, find(last, last_at)?);
        // `Sat-Mon` goes over the end of the week.
        let mut day = Weekday::from_monday_zero_offset(first as i8).unwrap_or(Weekday::Monday);
        loop {
            let index = day.to_monday_zero_offset() as usize;
            days[index] = true;
            if index == last {
                break;
            }
            day = day.next();
        }
        at += part.len() + 1;
    }
    Ok(Days::Weekly(days))
}

fn position(names: &[&str], name: &str) -> Option<usize> {
    names
        .iter()
        .position(|known| known.eq_ignore_ascii_case(name))
}

fn span_of(text: &str, at: usize, span: &str) -> Result<(i32, i32), ParseError> {
    let Some((from, to)) = span.split_once('-') else {
        let why = "a span such as 02:00-04:00 was expected";
        return Err(ParseError::at_byte(text, at, why));
    };
    let to_at = at + from.len() + 1;
    let (from, to) = (clock(text, at, from, false)?, clock(text, to_at, to, true)?);
    if from == to {
        let why = "it ends when it begins, so it never opens; the whole day is 00:00-24:00";
        return Err(ParseError::at_byte(text, to_at, why));
    }
    Ok((from, if to > from { to } else { to + DAY_MINUTES }))
}

/// The minutes after midnight that `HH:MM` means.
fn clock(text: &str, at: usize, word: &str, is_end: bool) -> Result<i32, ParseError> {
    let number = |text: &str| {
        let digits = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse::<i32>().ok()).flatten()
    };
    let minutes = word.split_once(':').and_then(|(hours, minutes)| {
        let (hours, minutes) = (number(hours)?, number(minutes)?);
        let minutes = (minutes < 60).then_some(hours * 60 + minutes)?;
        (minutes < DAY_MINUTES || (is_end && minutes == DAY_MINUTES)).then_some(minutes)
    });
    minutes.ok_or_else(|| {
        let why = format!("`{word}` is no time of day; write e.g. 02:00");
        ParseError::at_byte(text, at, why)
    })
}
