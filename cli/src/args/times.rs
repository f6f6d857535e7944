//! Instants as people write them.

use std::time::Duration;

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};

use super::values::parse_duration;

/// Reads `2027-02-03T04:05:00Z`, `2027-02-03 04:05+01:00` or `2027-02-03 04:05 Europe/Berlin`.
/// A time without a zone is refused: it would mean another moment in each place.
pub(crate) fn parse_time(text: &str) -> Result<Timestamp, String> {
    let wrong = || {
        format!(
            "`{text}` is not a time; write e.g. 2027-02-03T04:05:00Z or '2027-02-03 04:05 Europe/Berlin'"
        )
    };
    let text = text.trim();
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    if text.parse::<DateTime>().is_ok() {
        return Err(format!(
            "`{text}` names no time zone; add Z, an offset such as +01:00, or a zone such as Europe/Berlin"
        ));
    }
    let (time, zone) = text.rsplit_once(' ').ok_or_else(wrong)?;
    let time: DateTime = time.trim().parse().map_err(|_| wrong())?;
    let zone = TimeZone::get(zone).map_err(|_| format!("`{zone}` is no time zone"))?;
    let exact = zone.to_ambiguous_timestamp(time).unambiguous();
    exact.map_err(|_| format!("`{text}` does not come exactly once: the clocks change there"))
}

/// When something ends: at an instant, or after a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// At this instant.
    At(Timestamp),
    /// After this time.
    After(Duration),
}

/// Reads a duration or a time.
pub(crate) fn parse_end(text: &str) -> Result<End, String> {
    match parse_duration(text) {
        Ok(after) => Ok(End::After(after)),
        Err(_) if !text.contains('-') => Err(format!(
            "`{text}` is neither a duration such as 2h nor a time such as 2027-02-03T04:05:00Z"
        )),
        Err(_) => parse_time(text).map(End::At),
    }
}

/// Reads how long ago something was, or when.
pub(crate) fn parse_since(text: &str) -> Result<Timestamp, String> {
    match parse_end(text)? {
        End::At(time) => Ok(time),
        End::After(ago) => Timestamp::now()
            .checked_sub(ago)
            .map_err(|_| format!("`{text}` is before all time")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_name_their_zone() {
        let utc = "2027-02-03T04:05:00Z".parse::<Timestamp>();
        for same in [
            "2027-02-03T04:05:00Z",
            "2027-02-03 04:05Z",
            "2027-02-03T05:05+01:00",
            "2027-02-03 05:05 Europe/Berlin",
            " 2027-02-03T04:05 UTC ",
        ] {
            assert_eq!(parse_time(same), Ok(utc.clone().unwrap()), "{same}");
        }
        for (bad, why) in [
            ("tomorrow", "not a time"),
            ("2027-02-03 04:05", "names no time zone"),
            ("2027-02-03T04:05", "names no time zone"),
            ("2027-02-30 04:05 UTC", "not a time"),
            ("2027-02-03 04:05 Europe/Atlantis", "no time zone"),
            // Skipped in spring, twice in autumn.
            ("2027-03-28 02:30 Europe/Berlin", "exactly once"),
            ("2027-10-31 02:30 Europe/Berlin", "exactly once"),
        ] {
            let error = parse_time(bad).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn an_end_is_a_duration_or_a_time() {
        assert_eq!(parse_end("2h"), Ok(End::After(Duration::from_secs(7200))));
        let at = parse_time("2027-02-03T04:05:00Z").unwrap();
        assert_eq!(parse_end("2027-02-03T04:05:00Z"), Ok(End::At(at)));
        assert!(parse_end("soon").unwrap_err().contains("neither"));
        assert!(parse_end("2027-02-03").is_err());
    }
}
