//! Samples become medians with their spread and the ratio to the reference: a table for people and
//! JSON for machines.

use std::fmt::Write as _;

use kernex_integration_tests::samples::{Change, change, median, range};
use serde_json::{Value, json};

/// The side that a figure is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Kernex,
    /// Bare tonic, another build of Kernex, or what a row names.
    Reference,
}

impl Side {
    pub(crate) const BOTH: [Self; 2] = [Self::Kernex, Self::Reference];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kernex => "kernex",
            Self::Reference => "reference",
        }
    }
}

/// What a figure is held against.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Goal {
    /// The ratio to bare tonic is at most this.
    RatioAtMost(f64),
    /// The ratio to bare tonic is at least this.
    RatioAtLeast(f64),
    /// The figure itself is at most this.
    AtMost(f64),
    /// It is only shown.
    Shown,
}

/// What is measured.
#[derive(Debug, Clone)]
pub(crate) struct Work {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) goal: Goal,
}

impl Work {
    pub(crate) fn new(name: impl Into<String>, unit: &'static str, goal: Goal) -> Self {
        Self {
            name: name.into(),
            unit,
            goal,
        }
    }
}

#[derive(Debug)]
struct Row {
    work: Work,
    kernex: Vec<f64>,
    reference: Vec<f64>,
}

/// Everything measured in one run.
#[derive(Debug)]
pub(crate) struct Report {
    rows: Vec<Row>,
    notes: Vec<String>,
    /// Whether the reference is another build of Kernex.
    builds: bool,
}

impl Report {
    /// An empty one, against bare tonic or against another build.
    pub(crate) fn new(builds: bool) -> Self {
        Self {
            rows: Vec::new(),
            notes: Vec::new(),
            builds,
        }
    }

    pub(crate) fn add(&mut self, side: Side, work: &Work, value: f64) {
        let at = self.rows.iter().position(|row| row.work.name == work.name);
        let at = at.unwrap_or_else(|| {
            self.rows.push(Row {
                work: work.clone(),
                kernex: Vec::new(),
                reference: Vec::new(),
            });
            self.rows.len() - 1
        });
        eprintln!(
            "  {:<9} {}: {} {}",
            side.name(),
            work.name,
            figure(value),
            work.unit
        );
        match side {
            Side::Kernex => self.rows[at].kernex.push(value),
            Side::Reference => self.rows[at].reference.push(value),
        }
    }

    /// A remark for readers of the figures.
    pub(crate) fn note(&mut self, text: impl Into<String>) {
        let text = text.into();
        eprintln!("  note: {text}");
        self.notes.push(text);
    }

    /// The table, in Markdown.
    pub(crate) fn table(&self) -> String {
        let reference = if self.builds {
            "other build"
        } else {
            "bare tonic"
        };
        let mut text = format!(
            "| work | unit | Kernex | {reference} | ratio | must | |\n|---|---|---|---|---|---|---|\n"
        );
        for row in &self.rows {
            let ratio = row
                .ratio()
                .map_or_else(String::new, |ratio| format!("{ratio:.2}"));
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {ratio} | {} | {} |",
                row.work.name,
                row.work.unit,
                spread(&row.kernex),
                spread(&row.reference),
                self.must(row),
                self.verdict(row),
            );
        }
        for note in &self.notes {
            let _ = writeln!(text, "\n{note}");
        }
        text
    }

    fn must(&self, row: &Row) -> String {
        if self.builds {
            "not worse by 5 %".to_owned()
        } else {
            row.work.goal.words()
        }
    }

    fn verdict(&self, row: &Row) -> &'static str {
        if self.builds {
            return match row.change() {
                Some(Change::Worse) => "WORSE",
                Some(Change::Better) => "better",
                Some(Change::Same) => "same",
                Some(Change::TooFew) => "too few rounds to tell",
                None => "",
            };
        }
        match row.reached() {
            Some(true) => "reached",
            Some(false) => "NOT REACHED",
            None => "",
        }
    }

    pub(crate) fn json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            json!({
                "work": row.work.name,
                "unit": row.work.unit,
                "must": self.must(row),
                "kernex": { "median": median(&row.kernex), "samples": row.kernex },
                "reference": { "median": median(&row.reference), "samples": row.reference },
                "ratio": row.ratio(),
                "verdict": self.verdict(row),
            })
        });
        json!({ "rows": rows.collect::<Vec<_>>(), "notes": self.notes })
    }
}

impl Row {
    fn ratio(&self) -> Option<f64> {
        let (kernex, reference) = (median(&self.kernex)?, median(&self.reference)?);
        (reference != 0.0).then_some(kernex / reference)
    }

    /// How this build compares with the other one.
    fn change(&self) -> Option<Change> {
        let ratio = self.ratio()?;
        Some(change(
            ratio,
            &self.kernex,
            &self.reference,
            // Rates are better when they are higher; times, sizes and shares when they are lower.
            self.work.unit.ends_with("/s"),
        ))
    }

    fn reached(&self) -> Option<bool> {
        match self.work.goal {
            Goal::RatioAtMost(most) => self.ratio().map(|ratio| ratio <= most),
            Goal::RatioAtLeast(least) => self.ratio().map(|ratio| ratio >= least),
            Goal::AtMost(most) => median(&self.kernex).map(|figure| figure <= most),
            Goal::Shown => None,
        }
    }
}

impl Goal {
    fn words(self) -> String {
        match self {
            Self::RatioAtMost(most) => format!("<= {most} x"),
            Self::RatioAtLeast(least) => format!(">= {least} x"),
            Self::AtMost(most) => format!("<= {}", figure(most)),
            Self::Shown => String::new(),
        }
    }
}

fn spread(samples: &[f64]) -> String {
    let Some(middle) = median(samples) else {
        return String::new();
    };
    let (least, most) = range(samples);
    if samples.len() == 1 {
        return figure(middle);
    }
    format!("{} ({} to {})", figure(middle), figure(least), figure(most))
}

/// Three significant digits, or whole numbers.
fn figure(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 || size == 0.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}
