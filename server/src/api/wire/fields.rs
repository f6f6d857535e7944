//! Values that many requests have: ids, durations, pages.

use std::{str::FromStr, time::Duration};

use tonic::Status;

use crate::{error::invalid, store::Page};

/// Page size and token as they come; 0 means 100.
pub(in crate::api) fn page(size: u32, token: String) -> Result<Page, Status> {
    let size = match size {
        0 => 100,
        1..=1000 => size,
        _ => return Err(invalid("page_size", "it has to be 1 to 1000, or 0 for 100")),
    };
    let token = (!token.is_empty()).then_some(token);
    Ok(Page { size, token })
}

/// An id in a field.
pub(in crate::api) fn id<T: FromStr<Err: std::fmt::Display>>(
    field: &str,
    text: &str,
) -> Result<T, Status> {
    text.parse()
        .map_err(|error: T::Err| invalid(field, error.to_string()))
}

/// Seconds in a field; 0 means the default.
pub(in crate::api) fn seconds(
    field: &str,
    value: u64,
    default: Duration,
) -> Result<Duration, Status> {
    const LONGEST: u64 = 10 * 366 * 24 * 3600;
    match value {
        0 => Ok(default),
        1..=LONGEST => Ok(Duration::from_secs(value)),
        _ => Err(invalid(field, "it has to be at most ten years")),
    }
}
