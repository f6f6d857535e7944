//! Lists: sorted, cut, with the columns that were asked for. Whatever is left out is said.

use std::{cmp::Ordering, io::IsTerminal as _};

use serde_json::Value;

use super::{Printer, Time, View, emit, print_note};
use crate::{
    args::{OutputArg, listing::ListArgs},
    error::Failure,
};

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

/// Sorted by a field of the JSON view; `-` in front of it turns the order round. What lacks the
/// field comes last.
fn sorted<T: View>(items: Vec<T>, field: &str) -> Result<Vec<T>, Failure> {
    let (field, backwards) = match field.strip_prefix('-') {
        Some(field) => (field, true),
        None => (field, false),
    };
    let mut keyed = Vec::with_capacity(items.len());
    for item in items {
        let json = serde_json::to_value(&item).unwrap_or_default();
        let Some(key) = at_path(&json, field) else {
            let known: Vec<&str> = json
                .as_object()
                .into_iter()
                .flatten()
                .map(|(k, _)| k.as_str())
                .collect();
            return Err(Failure::usage(
                format!("there is no field `{field}` to sort by"),
                format!("Choose among {}.", known.join(", ")),
            ));
        };
        keyed.push((Key::from(key), item));
    }
    keyed.sort_by(|(a, _), (b, _)| match (a, b) {
        (Key::Absent, Key::Absent) => Ordering::Equal,
        (Key::Absent, _) => Ordering::Greater,
        (_, Key::Absent) => Ordering::Less,
        (a, b) if backwards => b.order(a),
        (a, b) => a.order(b),
    });
    Ok(keyed.into_iter().map(|(_, item)| item).collect())
}

/// A field of an object, or one of an object within; null where an object within is missing.
fn at_path<'a>(json: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(json, |at, name| match at {
        Value::Null => Some(at),
        at => at.get(name),
    })
}

/// What items are sorted by.
#[derive(Debug, PartialEq)]
enum Key {
    Absent,
    Number(f64),
    Time(jiff::Timestamp),
    Text(String),
}

impl From<&Value> for Key {
    fn from(value: &Value) -> Self {
        match value {
            Value::Null => Self::Absent,
            Value::Number(number) => Self::Number(number.as_f64().unwrap_or(f64::MAX)),
            Value::String(text) => match text.parse() {
                Ok(time) => Self::Time(time),
                Err(_) => Self::Text(text.clone()),
            },
            other => Self::Text(other.to_string()),
        }
    }
}

impl Key {
    fn order(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Number(a), Self::Number(b)) => a.total_cmp(b),
            (Self::Time(a), Self::Time(b)) => a.cmp(b),
            (Self::Text(a), Self::Text(b)) => natural(a, b),
            (a, b) => a.rank().cmp(&b.rank()),
        }
    }

    const fn rank(&self) -> u8 {
        match self {
            Self::Number(_) => 0,
            Self::Time(_) => 1,
            Self::Text(_) => 2,
            Self::Absent => 3,
        }
    }
}

/// As people count: `edge-2` before `edge-10`.
fn natural(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a, b);
    while let (Some(x), Some(y)) = (left.chars().next(), right.chars().next()) {
        if x.is_ascii_digit() && y.is_ascii_digit() {
            let ((m, after_m), (n, after_n)) = (number(left), number(right));
            let order = m.len().cmp(&n.len()).then_with(|| m.cmp(n));
            if order.is_ne() {
                return order;
            }
            (left, right) = (after_m, after_n);
        } else if x == y {
            (left, right) = (&left[x.len_utf8()..], &right[y.len_utf8()..]);
        } else {
            return x.cmp(&y);
        }
    }
    left.len().cmp(&right.len()).then_with(|| a.cmp(b))
}

/// The digits a text begins with, without leading zeros, and what follows.
fn number(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    (text[..end].trim_start_matches('0'), &text[end..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{Field, Format};

    #[derive(Debug, serde::Serialize)]
    struct Thing {
        name: String,
        count: Option<u32>,
        at: String,
    }

    impl View for Thing {
        const EMPTY: &'static str = "None.";

        fn header(wide: bool) -> Vec<&'static str> {
            if wide {
                vec!["NAME", "COUNT", "LAST SEEN"]
            } else {
                vec!["NAME", "COUNT"]
            }
        }

        fn row(&self, wide: bool, _now: Time) -> Vec<Field> {
            let count = self
                .count
                .map_or_else(String::new, |count| count.to_string());
            let mut row = vec![Field::plain(&self.name), Field::plain(count)];
            if wide {
                row.push(Field::plain(&self.at));
            }
            row
        }

        fn name(&self) -> String {
            self.name.clone()
        }
    }

    fn things() -> Vec<Thing> {
        let thing = |name: &str, count, at: &str| Thing {
            name: name.into(),
            count,
            at: at.into(),
        };
        vec![
            thing("edge-10", Some(9), "2026-01-01T00:00:00.5Z"),
            thing("edge-2", None, "2026-01-01T00:00:00Z"),
            thing("Edge-2", Some(10), "2026-01-02T00:00:00Z"),
        ]
    }

    fn listing(args: ListArgs) -> Listing {
        Listing {
            args,
            printer: Printer::plain(Format::Table),
            usual: None,
        }
    }

    fn names(args: ListArgs) -> Vec<String> {
        let (items, _) = listing(args).chosen(things(), None).unwrap();
        items.iter().map(View::name).collect()
    }

    #[test]
    fn a_list_is_sorted_by_a_field_of_its_json() {
        let by = |field: &str| {
            names(ListArgs {
                sort: Some(field.into()),
                ..ListArgs::default()
            })
        };
        assert_eq!(by("name"), ["Edge-2", "edge-2", "edge-10"]);
        assert_eq!(by("-name"), ["edge-10", "edge-2", "Edge-2"]);
        assert_eq!(by("count"), ["edge-10", "Edge-2", "edge-2"]);
        assert_eq!(by("-count"), ["Edge-2", "edge-10", "edge-2"]);
        assert_eq!(by("at"), ["edge-2", "edge-10", "Edge-2"]);
        let wrong = sorted(things(), "size").unwrap_err();
        assert!(wrong.next.contains("count"), "{wrong}");
    }

    #[test]
    fn what_is_cut_is_counted() {
        let cut = listing(ListArgs {
            limit: Some(2),
            ..ListArgs::default()
        });
        let (items, all) = cut.chosen(things(), Some(30_000)).unwrap();
        assert_eq!((items.len(), all), (2, 30_000));
        assert_eq!(
            left_out(2, all, "device").unwrap(),
            "29998 more devices; `--limit 0` prints all."
        );
        assert_eq!(left_out(2, 2, "device"), None);
        assert_eq!(cut.fetched(), Some(2));
        let sorts = listing(ListArgs {
            limit: Some(1),
            sort: Some("name".into()),
            ..ListArgs::default()
        });
        assert_eq!(sorts.fetched(), None, "the first by name may come last");
        let (items, all) = sorts.chosen(things(), Some(3)).unwrap();
        assert_eq!((items.len(), all), (1, 3));
        let all = listing(ListArgs {
            limit: Some(0),
            ..ListArgs::default()
        });
        assert_eq!(all.usually(1).fetched(), None);
    }

    #[test]
    fn columns_are_chosen_by_their_titles_and_titles_can_be_left_out() {
        let show = |columns: &[&str], no_headers| {
            let args = ListArgs {
                columns: columns.iter().map(|&column| column.to_owned()).collect(),
                no_headers,
                ..ListArgs::default()
            };
            listing(args).render(&things(), Time::at(0))
        };
        assert_eq!(
            show(&["last-seen", "name"], false).unwrap().lines().next(),
            Some("LAST SEEN               NAME")
        );
        assert_eq!(
            show(&[], true).unwrap(),
            "edge-10  9\nedge-2   -\nEdge-2   10\n"
        );
        let wrong = show(&["colour"], false).unwrap_err();
        assert!(wrong.next.contains("last-seen"), "{wrong}");
    }
}
