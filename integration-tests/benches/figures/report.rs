//! Samples become medians with their spread and the ratio to bare tonic: a table for people and JSON for machines.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// Whose figure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Kernex,
    /// Bare tonic, or the reference a row names.
    Bare,
}

impl Side {
    pub(crate) const BOTH: [Self; 2] = [Self::Kernex, Self::Bare];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kernex => "kernex",
            Self::Bare => "bare",
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
    bare: Vec<f64>,
}

/// Everything measured in one run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
    notes: Vec<String>,
}

impl Report {
    pub(crate) fn add(&mut self, side: Side, work: &Work, value: f64) {
        let at = self.rows.iter().position(|row| row.work.name == work.name);
        let at = at.unwrap_or_else(|| {
            self.rows.push(Row {
                work: work.clone(),
                kernex: Vec::new(),
                bare: Vec::new(),
            });
            self.rows.len() - 1
        });
        eprintln!(
            "  {:<6} {}: {} {}",
            side.name(),
            work.name,
            figure(value),
            work.unit
        );
        match side {
            Side::Kernex => self.rows[at].kernex.push(value),
            Side::Bare => self.rows[at].bare.push(value),
        }
    }

    /// Something a reader has to know.
    pub(crate) fn note(&mut self, text: impl Into<String>) {
        let text = text.into();
        eprintln!("  note: {text}");
        self.notes.push(text);
    }

    /// The table, in Markdown.
    pub(crate) fn table(&self) -> String {
        let mut text = String::from(
            "| work | unit | Kernex | bare tonic | ratio | must | |\n|---|---|---|---|---|---|---|\n",
        );
        for row in &self.rows {
            let ratio = row
                .ratio()
                .map_or_else(String::new, |ratio| format!("{ratio:.2}"));
            let verdict = match row.reached() {
                Some(true) => "reached",
                Some(false) => "NOT REACHED",
                None => "",
            };
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {ratio} | {} | {verdict} |",
                row.work.name,
                row.work.unit,
                spread(&row.kernex),
                spread(&row.bare),
                row.work.goal.words(),
            );
        }
        for note in &self.notes {
            let _ = writeln!(text, "\n{note}");
        }
        text
    }

    pub(crate) fn json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            json!({
                "work": row.work.name,
                "unit": row.work.unit,
                "must": row.work.goal.words(),
                "kernex": { "median": median(&row.kernex), "samples": row.kernex },
                "bare": { "median": median(&row.bare), "samples": row.bare },
                "ratio": row.ratio(),
                "reached": row.reached(),
            })
        });
        json!({ "rows": rows.collect::<Vec<_>>(), "notes": self.notes })
    }
}

impl Row {
    fn ratio(&self) -> Option<f64> {
        let (kernex, bare) = (median(&self.kernex)?, median(&self.bare)?);
        (bare != 0.0).then_some(kernex / bare)
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

/// The middle one; of an even number the mean of both.
pub(crate) fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

fn spread(samples: &[f64]) -> String {
    let Some(middle) = median(samples) else {
        return String::new();
    };
    let least = samples.iter().copied().fold(f64::INFINITY, f64::min);
    let most = samples.iter().copied().fold(f64::NEG_INFINITY, f64::max);
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
