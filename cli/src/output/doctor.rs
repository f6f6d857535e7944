//! What `doctor` found, as printed.

use serde::Serialize;

use super::{Field, Time, View};

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct CheckView {
    check: &'static str,
    ok: bool,
    found: String,
    /// What to do; empty when all is well.
    next: String,
}

impl CheckView {
    pub(crate) fn good(check: &'static str, found: impl Into<String>) -> Self {
        Self {
            check,
            ok: true,
            found: found.into(),
            next: String::new(),
        }
    }

    pub(crate) fn bad(
        check: &'static str,
        found: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        Self {
            check,
            ok: false,
            found: found.into(),
            next: next.into(),
        }
    }

    pub(crate) const fn is_good(&self) -> bool {
        self.ok
    }
}

impl View for CheckView {
    const EMPTY: &'static str = "Nothing was looked at.";

    fn header(_wide: bool) -> Vec<&'static str> {
        vec!["CHECK", "RESULT", "FOUND", "NEXT"]
    }

    fn row(&self, _wide: bool, _now: Time) -> Vec<Field> {
        vec![
            Field::plain(self.check),
            Field::state(if self.ok { "succeeded" } else { "failed" }),
            Field::plain(&self.found),
            Field::plain(&self.next),
        ]
    }

    fn name(&self) -> String {
        format!("{} {}", self.check, if self.ok { "ok" } else { "failed" })
    }
}
