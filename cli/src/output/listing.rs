//! Lists: sorted, cut, with the columns that were asked for. Whatever is left out is said.

use std::io::IsTerminal as _;

use super::{Printer, Time, View, emit, print_note};
use crate::{
    args::{OutputArg, listing::ListArgs},
    error::Failure,
};

mod sort;

use sort::sorted;

/// Items on a terminal when nobody says how many.
const SCREENFUL: u32 = 100;

/// How one list is fetched and printed.
#[derive(Debug, Clone)]
pub(crate) struct Listing {
    args: ListArgs,
    printer: Printer,
    /// Items when `--limit` is not given.
    usual: Option<u32>,
}

impl Listing {
    /// All of a list in a pipe, a screenful on a terminal.
    pub(crate) fn new(args: ListArgs, output: OutputArg) -> Self {
        let printer = Printer::new(output.output);
        let screen = printer.for_people() && std::io::stdout().is_terminal();
        Self {
            args,
            printer,
            usual: screen.then_some(SCREENFUL),
        }
    }

    /// At most this many, wherever it is printed.
    pub(crate) fn usually(self, items: u32) -> Self {
        Self {
            usual: Some(items),
            ..self
        }
    }

    /// All of it, unless somebody says how many.
    pub(crate) fn without_usual(self) -> Self {
        Self {
            usual: None,
            ..self
        }
    }

    pub(crate) const fn printer(&self) -> Printer {
        self.printer
    }

    /// Most items that are printed.
    fn limit(&self) -> Option<u32> {
        self.args.limit.or(self.usual).filter(|limit| *limit > 0)
    }

    /// Most items that have to be fetched: the first by another order may come last.
    pub(crate) fn fetched(&self) -> Option<u32> {
        self.limit().filter(|_| self.args.sort.is_none())
    }

    /// Sorts and cuts what was fetched. `total` is how many there are, as far as it is known.
    pub(crate) fn chosen<T: View>(
        &self,
        mut items: Vec<T>,
        total: Option<u64>,
    ) -> Result<(Vec<T>, u64), Failure> {
        if let Some(field) = &self.args.sort {
            items = sorted(items, field)?;
        }
        if let Some(limit) = self.limit() {
            let all = total.unwrap_or(0).max(items.len() as u64);
            items.truncate(limit as usize);
            return Ok((items, all));
        }
        let all = items.len() as u64;
        Ok((items, all))
    }

    /// Prints a list and says what is left out. `what` names one item, such as "device".
    pub(crate) fn print<T: View>(
        &self,
        items: Vec<T>,
        total: Option<u64>,
        what: &str,
    ) -> Result<Vec<T>, Failure> {
        let (items, all) = self.chosen(items, total)?;
        if items.is_empty() && self.printer.for_people() {
            print_note(T::EMPTY);
            return Ok(items);
        }
        emit(&self.render(&items, Time::now())?)?;
        if let Some(left) = left_out(items.len() as u64, all, what) {
            print_note(&left);
        }
        Ok(items)
    }

    /// A list as text; pure, for tests.
    pub(crate) fn render<T: View>(&self, items: &[T], now: Time) -> Result<String, Failure> {
        if !self.printer.for_people() || (self.args.columns.is_empty() && !self.args.no_headers) {
            return self.printer.render_list(items, now);
        }
        let wide = self.printer.wide() || !self.args.columns.is_empty();
        let titles = T::header(wide);
        let wanted = match self.args.columns.as_slice() {
            [] => (0..titles.len()).collect(),
            columns => positions(&titles, columns)?,
        };
        let rows = items.iter().map(|item| {
            let row = item.row(wide, now);
            let cell = |at: &usize| row.get(*at).cloned().unwrap_or_default();
            wanted.iter().map(cell).collect()
        });
        let titles: Vec<&str> = wanted.iter().map(|at| titles[*at]).collect();
        let titles = (!self.args.no_headers).then_some(titles.as_slice());
        Ok(self.printer.table(titles, rows.collect()))
    }
}

/// "29900 more devices; `--limit 0` prints all"
pub(crate) fn left_out(shown: u64, all: u64, what: &str) -> Option<String> {
    let left = all.checked_sub(shown).filter(|left| *left > 0)?;
    Some(format!(
        "{left} more {}; `--limit 0` prints all.",
        plural(left, what)
    ))
}

/// "1 device", "2 devices"
pub(crate) fn counted(count: u64, what: &str) -> String {
    format!("{count} {}", plural(count, what))
}

pub(crate) fn plural(count: u64, what: &str) -> String {
    if count == 1 {
        what.to_owned()
    } else {
        format!("{what}s")
    }
}

/// Where the columns stand among the titles.
fn positions(titles: &[&str], columns: &[String]) -> Result<Vec<usize>, Failure> {
    let plain = |text: &str| text.to_lowercase().replace([' ', '_'], "-");
    let find = |column: &String| {
        let at = titles
            .iter()
            .position(|title| plain(title) == plain(column));
        at.ok_or_else(|| {
            let known: Vec<String> = titles.iter().map(|title| plain(title)).collect();
            Failure::usage(
                format!("there is no column `{column}`"),
                format!("Choose among {}.", known.join(", ")),
            )
        })
    };
    columns.iter().map(find).collect()
}

#[cfg(test)]
mod tests;
