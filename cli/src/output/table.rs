//! Tables without lines: columns two spaces apart, the same on a terminal and in a pipe, except for
//! colours and width.
//!
//! Rows are never broken. On a terminal long cells are cut so that a row fits. Cells of the first
//! column are names and never cut. A pipe gets everything.

use comfy_table::{Cell, Color, Table, presets};

use super::printable;

/// One cell: its text, and whether it is good or bad news.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Field {
    text: String,
    color: Option<Color>,
    /// Worth nothing when it is cut.
    is_whole: bool,
}

impl Field {
    pub(crate) fn plain(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            ..Self::default()
        }
    }

    /// An id or a word that says nothing when its end is missing: other columns are cut first.
    pub(crate) fn whole(text: impl Into<String>) -> Self {
        Self {
            is_whole: true,
            ..Self::plain(text)
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
            color,
            ..Self::whole(word)
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

/// A table with or without titles; at most `width` characters wide, as far as cells can be cut.
pub(super) fn columns(
    titles: Option<&[&str]>,
    mut rows: Vec<Vec<Field>>,
    color: bool,
    width: Option<usize>,
) -> String {
    if let Some(width) = width {
        fit(titles.unwrap_or_default(), &mut rows, width);
    }
    let mut table = empty(color);
    if let Some(titles) = titles {
        table.set_header(titles.iter().map(Cell::new));
    }
    for row in rows {
        table.add_row(row.into_iter().map(|field| field.cell(color)));
    }
    finish(table)
}

/// Space between two columns.
const GAP: usize = 2;
/// No cell is cut shorter than this.
const SHORTEST: usize = 8;

/// Cuts cells until rows fit: always in the column that is widest, and in those of states and ids
/// only when nothing else is left.
fn fit(titles: &[&str], rows: &mut [Vec<Field>], width: usize) {
    let length = |text: &str| text.chars().count();
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let mut widths: Vec<usize> = (0..count)
        .map(|at| {
            let cells = rows.iter().filter_map(|row| row.get(at));
            let longest = cells.map(|field| length(&field.text)).max();
            let title = titles.get(at).map_or(0, |title| length(title));
            longest.unwrap_or(0).max(title)
        })
        .collect();
    let least = |at: usize| {
        titles
            .get(at)
            .map_or(0, |title| length(title))
            .max(SHORTEST)
    };
    let whole: Vec<bool> = (0..count)
        .map(|at| {
            let mut cells = rows.iter().filter_map(|row| row.get(at));
            cells.any(|field| field.is_whole)
        })
        .collect();
    while widths.iter().sum::<usize>() + GAP * count.saturating_sub(1) > width {
        let widest = |also_whole: bool| {
            (1..count)
                .filter(|&at| widths[at] > least(at) && (also_whole || !whole[at]))
                .max_by_key(|&at| widths[at])
        };
        let Some(at) = widest(false).or_else(|| widest(true)) else {
            break;
        };
        widths[at] -= 1;
    }
    for row in rows {
        for (at, field) in row.iter_mut().enumerate().skip(1) {
            if length(&field.text) > widths[at] {
                field.text = field.text.chars().take(widths[at] - 1).collect();
                field.text.push('…');
            }
        }
    }
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

/// Columns of the terminal that stdout is, if it is one; `COLUMNS` says otherwise.
pub(super) fn terminal_width() -> Option<usize> {
    let said = std::env::var("COLUMNS").ok();
    let said = said.and_then(|text| text.parse().ok());
    let width = said.or_else(|| Table::new().width().map(usize::from));
    width.filter(|width| *width > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_and_ids_are_cut_last() {
        let row = vec![
            Field::plain("edge-1"),
            Field::state("superseded"),
            Field::plain("a long reason in words"),
            Field::whole("01a22470-1f3c"),
        ];
        let text = columns(None, vec![row.clone()], false, Some(45));
        assert!(
            text.contains("superseded") && text.contains("01a22470-1f3c"),
            "{text}"
        );
        assert!(text.contains('…'), "{text}");
        let text = columns(None, vec![row], false, Some(35));
        assert!(
            text.lines().all(|line| line.chars().count() <= 36),
            "{text}"
        );
    }

    #[test]
    fn long_cells_are_cut_to_a_terminal_but_never_a_name() {
        let row = |cells: [&str; 3]| cells.map(Field::plain).to_vec();
        let labels = "site=berlin,rack=1,".repeat(10);
        let rows = || vec![row(["edge-1", "online", &labels]), row(["edge-2", "", ""])];
        let titles: &[&str] = &["NAME", "STATUS", "LABELS"];
        let text = columns(Some(titles), rows(), false, Some(40));
        assert!(
            text.lines().all(|line| line.chars().count() <= 40),
            "{text}"
        );
        assert!(
            text.contains("edge-1  online  site=berlin,rack=1"),
            "{text}"
        );
        assert!(text.contains('…'), "{text}");
        let whole = columns(Some(titles), rows(), false, None);
        assert!(whole.contains(&labels), "{whole}");
        let name = "n".repeat(60);
        let text = columns(None, vec![row([&name, "online", &labels])], false, Some(40));
        assert!(text.starts_with(&name), "{text}");
    }
}
