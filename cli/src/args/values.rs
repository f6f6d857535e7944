//! The small values of the command line: durations and labels.

use std::time::Duration;

/// One change of a device's labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LabelChange {
    /// `key=value`
    Set(String, String),
    /// `key-`
    Remove(String),
}

/// Reads `90s`, `30m`, `12h`, `1d`, `1h30m`; a bare number is refused because nobody remembers its
/// unit.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    match parse_age(text)? {
        Duration::ZERO => Err("the duration has to be longer than nothing".to_owned()),
        duration => Ok(duration),
    }
}

/// The same, where `0s` means something as well.
pub(super) fn parse_age(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration; write e.g. 90s, 30m, 12h, 7d or 1h30m");
    let mut rest = text.trim();
    let mut seconds: u64 = 0;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit = rest[digits..].chars().next().ok_or_else(wrong)?;
        let factor = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            'w' => 604_800,
            _ => return Err(wrong()),
        };
        seconds = number
            .checked_mul(factor)
            .and_then(|part| seconds.checked_add(part))
            .ok_or_else(wrong)?;
        rest = &rest[digits + unit.len_utf8()..];
    }
    Ok(Duration::from_secs(seconds))
}

/// Reads a name that the server takes.
pub(super) fn parse_name(text: &str) -> Result<String, String> {
    match kernex_proto::ids::check_name("name", text) {
        Ok(()) => Ok(text.to_owned()),
        Err(_) => Err(format!(
            "`{text}` is not a name; write up to 100 letters, digits, dots, dashes and underscores, a letter or digit first"
        )),
    }
}

/// Reads `key=value`.
pub(super) fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is not a label; write key=value")),
    }
}

/// Reads `NAME=VALUE`.
pub(super) fn parse_value(text: &str) -> Result<(String, String), String> {
    parse_label(text).map_err(|_| format!("`{text}` is not a value; write NAME=VALUE"))
}

/// Reads `key=value` or `key-`.
pub(crate) fn parse_label_change(text: &str) -> Result<LabelChange, String> {
    if let Ok((key, value)) = parse_label(text) {
        return Ok(LabelChange::Set(key, value));
    }
    match text.strip_suffix('-') {
        Some(key) if !key.is_empty() => Ok(LabelChange::Remove(key.to_owned())),
        _ => Err(format!(
            "`{text}` changes no label; write key=value to set or key- to remove"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5_400)));
        assert_eq!(parse_duration("7d"), Ok(Duration::from_secs(604_800)));
        for bad in [
            "",
            "5",
            "h",
            "1x",
            "0s",
            "-1s",
            "1.5h",
            "99999999999999999999d",
            "1ä",
        ] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_that_is_none_is_told_what_may_be_in_it() {
        assert_eq!(parse_name("nightly.7"), Ok("nightly.7".to_owned()));
        for bad in ["x y", "", "-x", "ä"] {
            let why = parse_name(bad).unwrap_err();
            assert!(why.contains("letters, digits"), "{why}");
        }
    }

    #[test]
    fn an_age_may_be_nothing_and_a_duration_not() {
        assert_eq!(parse_age("0s"), Ok(Duration::ZERO));
        assert_eq!(parse_age("90s"), parse_duration("90s"));
        assert!(parse_duration("0s").is_err() && parse_age("0").is_err());
    }

    #[test]
    fn a_value_is_not_called_a_label() {
        assert_eq!(parse_value("a=b"), Ok(("a".to_owned(), "b".to_owned())));
        assert!(parse_value("=x").unwrap_err().contains("NAME=VALUE"));
    }

    #[test]
    fn a_value_may_end_in_a_dash() {
        assert_eq!(
            parse_label_change("a=b-"),
            Ok(LabelChange::Set("a".into(), "b-".into()))
        );
        assert!(parse_label_change("-").is_err());
        assert!(parse_label_change("=b").is_err());
    }
}
