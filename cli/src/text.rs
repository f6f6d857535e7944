//! Words, times and sizes for people; and text from devices without control characters.

use std::fmt;

use jiff::Timestamp;
use serde::{Serialize, Serializer};

/// An instant: RFC 3339 in data, "3m ago" in tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Time(Timestamp);

impl Time {
    /// The wall clock, only ever used to say how long ago something was.
    pub(crate) fn now() -> Self {
        Self(Timestamp::now())
    }

    /// From the wire; `None` when absent or out of any calendar.
    pub(crate) fn from_wire(wire: Option<prost_types::Timestamp>) -> Option<Self> {
        wire.and_then(|time| Timestamp::new(time.seconds, time.nanos).ok())
            .map(Self)
    }

    #[cfg(test)]
    pub(crate) fn at(seconds: i64) -> Self {
        Self(Timestamp::from_second(seconds).unwrap())
    }

    /// RFC 3339 without the part of a second.
    pub(crate) fn to_seconds(self) -> String {
        Timestamp::from_second(self.unix()).map_or_else(|_| self.to_string(), |at| at.to_string())
    }

    /// Seconds since the Unix epoch.
    pub(crate) fn unix(self) -> i64 {
        self.0.as_second()
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// "3m ago", "in 2h", "never".
pub(crate) fn ago(time: Option<Time>, now: Time) -> String {
    let Some(time) = time else {
        return "never".to_owned();
    };
    let passed = now.unix().saturating_sub(time.unix());
    match passed {
        // Clocks of two machines differ by a little.
        -2..=2 => "just now".to_owned(),
        3.. => format!("{} ago", seconds(passed.unsigned_abs())),
        _ => format!("in {}", seconds(rounded(passed.unsigned_abs()))),
    }
}

/// When something comes that may be due already: "in 2h", "now".
pub(crate) fn when(time: Time, now: Time) -> String {
    match now.unix().saturating_sub(time.unix()) {
        -2.. => "now".to_owned(),
        _ => ago(Some(time), now),
    }
}

/// How long something has been so: "3m", "a moment"; empty when it is not known.
pub(crate) fn lasting(since: Option<Time>, now: Time) -> String {
    let Some(since) = since else {
        return String::new();
    };
    match now.unix().saturating_sub(since.unix()) {
        ..=2 => "a moment".to_owned(),
        passed => seconds(passed.unsigned_abs()),
    }
}

/// Rounded to the unit in which `seconds` writes it: what comes in 30 days less a moment comes in
/// 30 days.
fn rounded(total: u64) -> u64 {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    let unit = match total {
        ..180 => 1,
        180..10_800 => MINUTE,
        10_800..259_200 => HOUR,
        _ => DAY,
    };
    (total + unit / 2) / unit * unit
}

/// A length of time in its largest unit, two for small numbers: "45s", "3m", "1h20m", "5d".
pub(crate) fn seconds(total: u64) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    let two = |large: u64, unit: char, small: u64, small_unit: char| {
        if large < 3 && small > 0 {
            format!("{large}{unit}{small}{small_unit}")
        } else {
            format!("{large}{unit}")
        }
    };
    match total {
        0..MINUTE => format!("{total}s"),
        MINUTE..HOUR => two(total / MINUTE, 'm', total % MINUTE, 's'),
        HOUR..DAY => two(total / HOUR, 'h', total % HOUR / MINUTE, 'm'),
        _ => two(total / DAY, 'd', total % DAY / HOUR, 'h'),
    }
}

/// The first digits of an id: the moment it was made, which commands take instead of all of it.
/// What is no id stays whole.
pub(crate) fn short_id(id: &str) -> &str {
    const DIGITS: usize = "01a22470-1f3c".len();
    const WHOLE: usize = 36;
    id.get(..DIGITS).filter(|_| id.len() == WHOLE).unwrap_or(id)
}

/// The first digits of a digest, which commands take instead of all of it.
pub(crate) fn short_digest(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

/// "512 B", "1.5 MiB".
pub(crate) fn bytes(count: u64) -> String {
    kernex_proto::units::bytes(count)
}

/// "1 device", "2 devices", "0 entries"
pub(crate) fn counted(count: u64, what: &str) -> String {
    format!("{count} {}", plural(count, what))
}

/// A word for one thing as it is said of that many.
pub(crate) fn plural(count: u64, what: &str) -> String {
    match (count, what.strip_suffix('y')) {
        (1, _) => what.to_owned(),
        (_, Some(stem)) if !stem.ends_with(['a', 'e', 'i', 'o', 'u']) => format!("{stem}ies"),
        _ => format!("{what}s"),
    }
}

/// `ATTEMPT_STATE_RUNNING` -> `running`: the word for a value of a protocol enum.
pub(crate) fn word(wire_name: &str, prefix: &str) -> String {
    wire_name
        .strip_prefix(prefix)
        .unwrap_or(wire_name)
        .to_ascii_lowercase()
}

/// The word for the number of a protocol enum: empty for the value that says nothing, `unknown` for
/// one of a newer server.
pub(crate) fn enum_word(number: i32, wire_name: Option<&str>, prefix: &str) -> String {
    match wire_name {
        Some(_) if number == 0 => String::new(),
        Some(name) => word(name, prefix),
        None => "unknown".to_owned(),
    }
}

/// The same for a type of enum.
macro_rules! state_word {
    ($enum:ty, $value:expr, $prefix:literal) => {{
        let known = <$enum>::try_from($value).ok();
        $crate::text::enum_word($value, known.map(|known| known.as_str_name()), $prefix)
    }};
}
pub(crate) use state_word;

/// One line without control characters: text of a device or a stranger must not control the
/// terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\t' => ' ',
            c if c.is_control() => '\u{fffd}',
            c => c,
        })
        .collect()
}

/// Several lines, without control characters.
pub(crate) fn printable_lines(text: &str) -> String {
    text.replace("\r\n", "\n")
        .chars()
        .map(|c| match c {
            '\n' | '\t' => c,
            c if c.is_control() => '\u{fffd}',
            c => c,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_said_as_people_say_them() {
        let now = Time::at(1_000_000);
        let said = |seconds: i64| ago(Some(Time::at(1_000_000 - seconds)), now);
        assert_eq!(said(1), "just now");
        assert_eq!(said(45), "45s ago");
        assert_eq!(said(60), "1m ago");
        assert_eq!(said(95), "1m35s ago");
        assert_eq!(said(180), "3m ago");
        assert_eq!(said(4_800), "1h20m ago");
        assert_eq!(said(-7_200), "in 2h");
        assert_eq!(said(-7_198), "in 2h");
        assert_eq!(said(-86_400 * 30 + 3), "in 30d");
        assert_eq!(said(-86_400 * 2 + 3), "in 2d");
        assert_eq!(said(-599), "in 10m");
        assert_eq!(said(-61), "in 1m1s");
        let soon = |seconds: i64| when(Time::at(1_000_000 + seconds), now);
        assert_eq!(
            (soon(1), soon(-5), soon(60)),
            ("now".into(), "now".into(), "in 1m".into())
        );
        let since = |seconds: i64| lasting(Some(Time::at(1_000_000 - seconds)), now);
        assert_eq!((since(1), since(107)), ("a moment".into(), "1m47s".into()));
        assert_eq!(said(86_400 * 5 + 3_600), "5d ago");
        assert_eq!(ago(None, now), "never");
    }

    #[test]
    fn one_is_not_many() {
        let said = [0, 1, 2].map(|count| counted(count, "device"));
        assert_eq!(said, ["0 devices", "1 device", "2 devices"]);
        assert_eq!(counted(3, "entry"), "3 entries");
        assert_eq!(counted(3, "key"), "3 keys");
    }

    #[test]
    fn states_are_the_words_of_the_contract() {
        use kernex_proto::v1::AttemptState;
        let said = |number: i32| state_word!(AttemptState, number, "ATTEMPT_STATE_");
        assert_eq!(said(AttemptState::Running.into()), "running");
        assert_eq!(said(AttemptState::Unspecified.into()), "");
        assert_eq!(said(99), "unknown", "of a newer server");
    }

    #[test]
    fn times_on_the_wire_become_rfc_3339() {
        let wire = prost_types::Timestamp {
            seconds: 1_700_000_000,
            nanos: 500_000_000,
        };
        assert_eq!(
            Time::from_wire(Some(wire)).unwrap().to_string(),
            "2023-11-14T22:13:20.5Z"
        );
        assert_eq!(
            Time::from_wire(Some(prost_types::Timestamp {
                seconds: i64::MAX,
                nanos: 0
            })),
            None
        );
    }

    #[test]
    fn devices_cannot_drive_the_terminal() {
        assert_eq!(printable("a\x1b[31mb\nc"), "a\u{fffd}[31mb c");
        assert_eq!(printable_lines("a\r\nb\x07"), "a\nb\u{fffd}");
    }
}
