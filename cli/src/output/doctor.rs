//! What `doctor` found, as printed.

use serde::Serialize;

use super::{Field, Time, View, printable};

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

    const fn result(&self) -> &'static str {
        if self.ok { "ok" } else { "failed" }
    }

    /// For people: what to do stands whole below what is wrong.
    pub(crate) fn text(&self) -> String {
        let (check, result) = (self.check, self.result());
        let mut text = format!("{check:<12} {result:<7} {}\n", printable(&self.found));
        if !self.next.is_empty() {
            text.push_str(&format!("  next: {}\n", printable(&self.next)));
        }
        text
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
            Field::state(self.result()),
            Field::plain(&self.found),
            Field::plain(&self.next),
        ]
    }

    fn name(&self) -> String {
        format!("{} {}", self.check, self.result())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_do_is_never_cut() {
        let checks = [
            CheckView::good("dns", "kernex.example is 192.0.2.7"),
            CheckView::bad("tcp", "connection refused", "Check that the server runs."),
        ];
        let text: String = checks.iter().map(CheckView::text).collect();
        insta::assert_snapshot!(text, @r"
        dns          ok      kernex.example is 192.0.2.7
        tcp          failed  connection refused
          next: Check that the server runs.
        ");
    }
}
