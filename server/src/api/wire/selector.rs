//! Selectors, as operators write them.

use tonic::Status;

use crate::{domain::selector::Selector, error::unreadable};

/// The selector in a field; an empty one means every device.
pub(in crate::api) fn any_selector(field: &str, text: &str) -> Result<Selector, Status> {
    Selector::parse(text).map_err(|wrong| unreadable(field, &wrong))
}

/// The selector in a field; `None` when it is empty.
pub(in crate::api) fn selector(field: &str, text: &str) -> Result<Option<Selector>, Status> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    any_selector(field, text).map(Some)
}
