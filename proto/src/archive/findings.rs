//! What is wrong with a bundle: everything that was found, each with a way out.

use std::fmt;

/// Most findings that are kept; more are counted.
const KEPT: usize = 50;

/// Most bytes of the findings in a sentence: an error travels in a Status of a few KiB.
const SHOWN_BYTES: usize = 2000;

/// Most bytes of a name that are shown.
const NAME_BYTES: usize = 200;

/// Most characters of that once escaped.
const SHOWN_NAME: usize = 300;

/// One thing that is wrong with a bundle, or worth a look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// An entry of the archive or a field of the manifest, without control characters.
    pub subject: String,
    /// The rest of a sentence that starts with the subject.
    pub why: String,
    /// What to do about it, as a sentence.
    pub way_out: &'static str,
}

impl Finding {
    /// What it is and what to do about it, in two sentences.
    #[must_use]
    pub fn with_way_out(&self) -> String {
        let said = self.to_string();
        let end = if said.ends_with('?') { "" } else { "." };
        format!("{said}{end} {}", self.way_out)
    }

    pub(super) fn entry(entry: &[u8], why: impl Into<String>, way_out: &'static str) -> Self {
        let shown = entry.get(..NAME_BYTES).unwrap_or(entry);
        let mut subject = match std::str::from_utf8(shown) {
            Ok(text) if text.chars().all(|c| !c.is_control()) => text.to_owned(),
            _ => shown.escape_ascii().to_string(),
        };
        if let Some((end, _)) = subject.char_indices().nth(SHOWN_NAME) {
            subject.truncate(end);
        }
        Self {
            subject,
            why: why.into(),
            way_out,
        }
    }
}

/// "`zebra` is a symbolic link to an absolute path"
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {}", self.subject, self.why)
    }
}

/// Everything that was found. The first are kept and the rest is counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    kept: Vec<Finding>,
    total: u64,
}

impl Findings {
    pub fn push(&mut self, finding: Finding) {
        self.total = self.total.saturating_add(1);
        if self.kept.len() < KEPT {
            self.kept.push(finding);
        }
    }

    pub fn append(&mut self, others: Self) {
        let uncounted = others.total - others.kept.len() as u64;
        for finding in others.kept {
            self.push(finding);
        }
        self.total = self.total.saturating_add(uncounted);
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// How many were found, also those that are only counted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Those that are kept, in the order they were found.
    #[must_use]
    pub fn kept(&self) -> &[Finding] {
        &self.kept
    }

    /// What to do about the findings that are kept; the same advice is given once.
    #[must_use]
    pub fn ways_out(&self) -> Vec<&'static str> {
        let mut ways: Vec<&'static str> = Vec::new();
        for finding in &self.kept {
            if !ways.contains(&finding.way_out) {
                ways.push(finding.way_out);
            }
        }
        ways
    }
}

impl From<Finding> for Findings {
    fn from(finding: Finding) -> Self {
        let mut findings = Self::default();
        findings.push(finding);
        findings
    }
}

/// All in one line, as far as an error has room for them.
impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut room = SHOWN_BYTES;
        let mut shown = 0;
        for finding in &self.kept {
            let text = finding.to_string();
            if shown > 0 && text.len() > room {
                break;
            }
            room = room.saturating_sub(text.len());
            f.write_str(if shown > 0 { "; " } else { "" })?;
            f.write_str(&text)?;
            shown += 1;
        }
        match self.total - shown {
            0 => Ok(()),
            left => write!(f, "; and {left} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(name: &str) -> Finding {
        Finding::entry(name.as_bytes(), "is odd", "Leave it out.")
    }

    #[test]
    fn all_are_said_as_far_as_there_is_room() {
        let mut findings = Findings::from(finding("a"));
        findings.push(finding("b\n"));
        assert_eq!(findings.to_string(), "`a` is odd; `b\\n` is odd");
        assert_eq!(findings.ways_out(), ["Leave it out."]);
        assert_eq!(finding("a").with_way_out(), "`a` is odd. Leave it out.");
        let asks = Finding::entry(b"a", "is odd; or `b`?", "Look.");
        assert_eq!(asks.with_way_out(), "`a` is odd; or `b`? Look.");
        let mut many = Findings::default();
        for n in 0..1000 {
            many.push(finding(&"x".repeat(n)));
        }
        findings.append(many);
        assert_eq!((findings.total(), findings.kept().len()), (1002, KEPT));
        let said = findings.to_string();
        assert!(said.len() < 3000 && said.contains("more"), "{said}");
    }

    #[test]
    fn a_name_is_shown_as_it_is_unless_it_could_change_what_is_seen() {
        assert_eq!(finding("grün").subject, "grün");
        assert_eq!(finding("\x1b[2J").subject, "\\x1b[2J");
    }
}
