//! Results of a scenario: figures when it passes, and everything that helps to see why when it
//! fails.

use std::{collections::BTreeMap, fmt};

use super::checker::{Summary, Violation};

/// Prefix of figures that are maxima, not sums.
const SLOWEST: &str = "slowest ";

/// Name and number of what was counted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Figures(BTreeMap<String, f64>);

impl Figures {
    pub fn add(&mut self, name: &str, number: impl Into<f64>) {
        *self.0.entry(name.to_owned()).or_default() += number.into();
    }

    /// Adds `number`.
    pub fn count(&mut self, name: &str, number: usize) {
        #[expect(clippy::cast_precision_loss, reason = "nobody counts to 2^52 here")]
        self.add(name, number as f64);
    }

    /// Keeps the larger of the two values, under a name that begins with "slowest". Merging does
    /// the same.
    pub fn slowest(&mut self, what: &str, seconds: f64) {
        let slot = self
            .0
            .entry(format!("{SLOWEST}{what}, s"))
            .or_insert(seconds);
        *slot = slot.max(seconds);
    }

    /// Keeps the larger of the two values, under the name as it is.
    pub fn most(&mut self, name: &str, number: f64) {
        let slot = self.0.entry(name.to_owned()).or_insert(number);
        *slot = slot.max(number);
    }

    /// Adds all figures of another part.
    pub fn merge(&mut self, other: &Self) {
        for (name, number) in &other.0 {
            if let Some(what) = name.strip_prefix(SLOWEST) {
                self.slowest(what.trim_end_matches(", s"), *number);
            } else {
                self.add(name, *number);
            }
        }
    }

    /// Adds the summary of a check.
    pub fn judged(&mut self, summary: &Summary) {
        self.count("targets", summary.targets);
        self.count("late outcomes", summary.late);
        self.count("lines of witnesses", summary.witness_lines);
        self.count("outcomes in journals", summary.journalled);
        self.count("sessions", summary.sessions);
        for (ending, attempts) in &summary.endings {
            self.count(&format!("ended {ending}"), *attempts);
        }
    }

    /// One figure; 0 when it is absent.
    #[must_use]
    pub fn get(&self, name: &str) -> f64 {
        self.0.get(name).copied().unwrap_or_default()
    }
}

/// A table, one figure a line.
impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.0.keys().map(String::len).max().unwrap_or(0);
        for (name, number) in &self.0 {
            if number.fract() == 0.0 {
                writeln!(f, "  {name:width$}  {number:>10.0}")?;
            } else {
                writeln!(f, "  {name:width$}  {number:>10.2}")?;
            }
        }
        Ok(())
    }
}

/// Why a scenario failed.
#[derive(Debug, Clone, Default)]
pub struct Failure {
    /// What went wrong, in a line.
    pub what: String,
    /// Rules that were broken.
    pub violations: Vec<Violation>,
    /// Rows, witness lines and ends of logs that help to see why.
    pub dump: String,
}

impl Failure {
    /// A failure that is no violation of a rule.
    #[must_use]
    pub fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            ..Self::default()
        }
    }

    /// Adds what helps to see why.
    #[must_use]
    pub fn with_dump(mut self, dump: impl Into<String>) -> Self {
        self.dump = dump.into();
        self
    }
}

impl From<Vec<Violation>> for Failure {
    fn from(violations: Vec<Violation>) -> Self {
        Self {
            what: format!("{} rules were broken", violations.len()),
            violations,
            dump: String::new(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.what)?;
        for violation in &self.violations {
            writeln!(f, "  {violation}")?;
        }
        write!(f, "{}", self.dump)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_add_up_and_make_a_table() {
        let mut figures = Figures::default();
        figures.count("kills", 3);
        figures.slowest("settling", 1.25);
        figures.slowest("settling", 0.5);
        let mut all = figures.clone();
        all.count("kills", 4);
        figures.merge(&all);
        assert_eq!(figures.get("kills"), 10.0);
        assert_eq!(
            all.to_string(),
            "  kills                         7\n  slowest settling, s        1.25\n"
        );
    }
}
