//! Lists page by page. The token of a page is opaque and holds a key, so a page costs the same
//! wherever it is in the list.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use uuid::Uuid;

use crate::store::db::error::{Result, StoreError};

/// Largest page.
pub const MAX_PAGE: u32 = 1000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// From 1 to [`MAX_PAGE`].
    pub size: u32,
    /// Token of the page before; `None` for the first page.
    pub token: Option<String>,
}

impl Page {
    #[must_use]
    pub const fn first(size: u32) -> Self {
        Self { size, token: None }
    }

    /// The size, cut to its limits.
    pub(crate) fn limit(&self) -> u64 {
        u64::from(self.size.clamp(1, MAX_PAGE))
    }

    /// The id the page before ended with.
    pub(crate) fn after_id(&self, list: &'static str) -> Result<Option<Uuid>> {
        let Some(bytes) = self.after(list)? else {
            return Ok(None);
        };
        Uuid::from_slice(&bytes).map(Some).map_err(|_| invalid())
    }

    /// The instant the page before ended with.
    pub(crate) fn after_instant(&self, list: &'static str) -> Result<Option<i64>> {
        let Some(bytes) = self.after(list)? else {
            return Ok(None);
        };
        let bytes = bytes.try_into().map_err(|_| invalid())?;
        Ok(Some(i64::from_be_bytes(bytes)))
    }

    fn after(&self, list: &'static str) -> Result<Option<Vec<u8>>> {
        let Some(token) = self.token.as_deref().filter(|token| !token.is_empty()) else {
            return Ok(None);
        };
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| invalid())?;
        // A token of another list is refused.
        let key = bytes
            .strip_prefix(list.as_bytes())
            .and_then(|rest| rest.strip_prefix(b":"));
        key.map(|key| Some(key.to_vec())).ok_or_else(invalid)
    }
}

fn invalid() -> StoreError {
    StoreError::Invalid {
        field: "page_token",
        why: "it is not a token this list gave out".into(),
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paged<T> {
    pub items: Vec<T>,
    /// Token of the next page; `None` on the last.
    pub next: Option<String>,
}

impl<T> Paged<T> {
    /// Makes a page of rows that were read with one row more than it holds. The surplus row only
    /// says that there is another page.
    pub(crate) fn from_surplus(
        mut items: Vec<T>,
        limit: u64,
        list: &'static str,
        key: impl Fn(&T) -> Vec<u8>,
    ) -> Self {
        let more = items.len() as u64 > limit;
        items.truncate(limit as usize);
        let next = items
            .last()
            .filter(|_| more)
            .map(|last| token(list, &key(last)));
        Self { items, next }
    }

    /// The same page with each row converted.
    pub(crate) fn map<U>(self, f: impl FnMut(T) -> U) -> Paged<U> {
        Paged {
            items: self.items.into_iter().map(f).collect(),
            next: self.next,
        }
    }
}

/// The token of a page that ends with `key`.
pub(crate) fn token(list: &'static str, key: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(list.len() + 1 + key.len());
    bytes.extend_from_slice(list.as_bytes());
    bytes.push(b':');
    bytes.extend_from_slice(key);
    URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_belong_to_their_list() {
        let id = Uuid::now_v7();
        let page = Page {
            size: 1,
            token: Some(token("devices", id.as_bytes())),
        };
        assert_eq!(page.after_id("devices").unwrap(), Some(id));
        assert!(page.after_id("bundles").is_err());
        assert!(page.after_instant("devices").is_err());
        let broken = Page {
            size: 1,
            token: Some("%%".into()),
        };
        assert!(broken.after_id("devices").is_err());
        assert_eq!(Page::first(1).after_id("devices").unwrap(), None);
    }

    #[test]
    fn only_a_surplus_row_makes_a_next_page() {
        let full = Paged::from_surplus(vec![1u8, 2, 3], 2, "x", |n| vec![*n]);
        assert_eq!(
            (full.items, full.next),
            (vec![1, 2], Some(token("x", &[2])))
        );
        assert_eq!(
            Paged::from_surplus(vec![1u8, 2], 2, "x", |n| vec![*n]).next,
            None
        );
    }
}
