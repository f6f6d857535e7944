//! Lists: sorted, cut, with the columns that were asked for. How much is left out is printed.

use std::io::IsTerminal as _;

use super::{Printer, Time, View, emit, print_note};
use crate::{
    args::{OutputArg, listing::ListArgs},
    error::Failure,
    text::{counted, plural},
};

mod sort;

use sort::{by_name, sorted};

/// Most items on a terminal without `--limit`.
const SCREENFUL: u32 = 100;

/// How one list is fetched and printed.
#[derive(Debug, Clone)]
pub(crate) struct Listing {
    args: ListArgs,
    printer: Printer,
    /// Most items without `--limit`.
    usual: Option<u32>,
    /// Whether a filter may have left things out.
    is_narrowed: bool,
    /// Whether people get it in the order of names when all of it was read.
    is_by_name: bool,
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
            is_narrowed: false,
            is_by_name: false,
        }
    }

    /// At most this many without `--limit`, also in a pipe.
    pub(crate) fn usually(self, items: u32) -> Self {
        Self {
            usual: Some(items),
            ..self
        }
    }

    /// All of it without `--limit`.
    pub(crate) fn without_usual(self) -> Self {
        Self {
            usual: None,
            ..self
        }
    }

    /// With a filter, or without one.
    pub(crate) fn narrowed(self, is_narrowed: bool) -> Self {
        Self {
            is_narrowed,
            ..self
        }
    }

    /// In the order of names for people, as long as all of it fits.
    pub(crate) fn by_name(self) -> Self {
        Self {
            is_by_name: true,
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

    /// Most items to fetch; none with `--sort`, as the first by another order may come last.
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
        } else if self.is_by_name && self.printer.for_people() && total == Some(items.len() as u64)
        {
            by_name(&mut items);
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
        let read = items.len();
        let (items, all) = self.chosen(items, total)?;
        if items.is_empty() && self.printer.for_people() {
            print_note(&self.nothing::<T>(what));
            return Ok(items);
        }
        emit(&self.render(&items, Time::now())?)?;
        if let Some(note) = self.note_on_sorting(read, items.len(), what) {
            print_note(&note);
        }
        if let Some(left) = left_out(items.len() as u64, all, what) {
            print_note(&left);
        }
        Ok(items)
    }

    /// What is said of an empty list. A filter that nothing matches says nothing about what there
    /// is.
    fn nothing<T: View>(&self, what: &str) -> String {
        if self.is_narrowed {
            format!("No {what} matches. Without a filter all are listed.")
        } else {
            T::EMPTY.to_owned()
        }
    }

    /// Why a few items took long: all of a long list was read to sort it.
    fn note_on_sorting(&self, read: usize, shown: usize, what: &str) -> Option<String> {
        let sort = self.args.sort.as_ref()?;
        let is_long = read > LONG && read > shown;
        is_long.then(|| {
            let all = counted(read as u64, what);
            format!("All {all} were read to sort them by {sort}; a filter makes that shorter.")
        })
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

/// A list that is longer than this takes more than one call to read.
const LONG: usize = 1000;

/// "29900 more devices; `--limit 0` prints all"
pub(crate) fn left_out(shown: u64, all: u64, what: &str) -> Option<String> {
    let left = all.checked_sub(shown).filter(|left| *left > 0)?;
    Some(format!(
        "{left} more {}; `--limit 0` prints all.",
        plural(left, what)
    ))
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
