//! Values between the program and both databases: unsigned numbers, names, digests, texts from
//! outside.

use kernex_proto::ids::Digest;
use sea_orm::DbErr;

use crate::store::db::error::Result;

/// Parses a name that this program wrote. Any other text comes from a newer version, or was written
/// by hand.
pub(crate) fn parse_name<T>(
    what: &str,
    text: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<T, DbErr> {
    parse(text).ok_or_else(|| DbErr::Type(format!("{what} `{text}` is unknown to this version")))
}

/// An unsigned number as the database stores it.
pub(crate) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The unsigned number of a column.
pub(crate) fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// Longest text an agent says about its machine, in characters.
const MAX_WORD: usize = 256;

/// Text from outside in a form that both databases store: short, and without NUL, which PostgreSQL
/// refuses.
pub(crate) fn clean(text: &str) -> String {
    text.chars().filter(|c| *c != '\0').take(MAX_WORD).collect()
}

/// A digest this program wrote.
pub(crate) fn digest(text: &str) -> Result<Digest, DbErr> {
    text.parse()
        .map_err(|error| DbErr::Type(format!("{error}")))
}

/// The beginning of a text, within a number of bytes and without NUL, which PostgreSQL refuses.
pub(crate) fn head(text: &str, limit: usize) -> String {
    let text = text.replace('\0', "\u{fffd}");
    text[..text.floor_char_boundary(limit)].to_owned()
}

/// The end of a text, with the same limits.
pub(crate) fn tail(text: &str, limit: usize) -> String {
    let text = text.replace('\0', "\u{fffd}");
    text[text.ceil_char_boundary(text.len().saturating_sub(limit))..].to_owned()
}
