//! Tables without lines: columns two spaces apart, the same on a terminal and in a pipe, except for
//! colours.
//!
//! Rows are never broken to fit a terminal, so that copied text is what a script would get.

use comfy_table::{Cell, Color, Table, presets};

use super::printable;

/// One cell: its text, and whether it is good or bad news.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Field {
    text: String,
    color: Option<Color>,
}

impl Field {
    pub(crate) fn plain(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            color: None,
        }
    }

    #[cfg(test)]
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// A word for a state, in its colour; unknown words have none.
    pub(crate) fn state(word: &str) -> Self {
        let color = match word {
            "online" | "succeeded" => Some(Color::Green),
            "failed" | "conflicted" | "expired" | "revoked" => Some(Color::Red),
            "running" | "accepted" | "active" | "stopping" | "sent" => Some(Color::Cyan),
            "offline" | "cancelled" | "superseded" | "paused" => Some(Color::Yellow),
            _ => None,
        };
        Self {
            text: word.to_owned(),
            color,
        }
    }

    /// Empty text becomes a dash, so that columns can be cut apart by spaces.
    fn cell(self, color: bool) -> Cell {
        let text = printable(&self.text);
        let cell = Cell::new(if text.is_empty() { "-" } else { &text });
        match self.color {
            Some(shade) if color => cell.fg(shade),
            _ => cell,
        }
    }
}

/// One row alone, for a stream of them.
pub(super) fn line(row: Vec<Field>) -> String {
    let cells: Vec<String> = row
        .into_iter()
        .map(|field| {
            let text = printable(&field.text);
            if text.is_empty() {
                "-".to_owned()
            } else {
                text
            }
        })
        .collect();
    cells.join("  ")
}

pub(super) fn columns(titles: &[&str], rows: Vec<Vec<Field>>, color: bool) -> String {
    let mut table = empty(color);
    table.set_header(titles.iter().map(Cell::new));
    for row in rows {
        table.add_row(row.into_iter().map(|field| field.cell(color)));
    }
    finish(table)
}

pub(super) fn lines(lines: Vec<(&'static str, Field)>, color: bool) -> String {
    let mut table = empty(color);
    for (title, field) in lines {
        table.add_row([Cell::new(format!("{title}:")), field.cell(color)]);
    }
    finish(table)
}

fn empty(color: bool) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if color {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    table
}

fn finish(mut table: Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text = table.trim_fmt();
    text.push('\n');
    text
}
