//! How results are printed: data on stdout, messages on stderr, the same words everywhere.
//!
//! A command passes views; this module prints them as a table, JSON, YAML or names only. A view is
//! a message of the contract with its columns. As data the message itself is printed (`wire`), so
//! that scripts find the names and states of the contract; what a view adds is listed in
//! `wire/tests.rs`.

use std::io::{self, IsTerminal as _, Write as _};

use clap::ValueEnum;
use serde::Serialize;

use crate::error::{Exit, Failure};

pub(crate) mod access;
pub(crate) mod audit;
pub(crate) mod bundle;
pub(crate) mod configuration;
mod counts;
pub(crate) mod deployment;
pub(crate) mod device;
pub(crate) mod doctor;
pub(crate) mod event;
pub(crate) mod halted;
pub(crate) mod listing;
mod order;
pub(crate) mod phase;
pub(crate) mod plan;
pub(crate) mod progress;
pub(crate) mod reader;
pub(crate) mod rollback;
mod schedule;
pub(crate) mod script_output;
pub(crate) mod status;
mod table;
pub(crate) mod target;
pub(crate) mod token;
pub(crate) mod whoami;
mod wire;

pub(crate) use crate::text::{
    Time, ago, bytes, counted, lasting, plural, printable, printable_lines, seconds, short_digest,
    short_id, state_word, when,
};
pub(crate) use table::Field;

/// What the user asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns for people
    Table,
    /// More columns
    Wide,
    /// The messages of the API as JSON, with the names of its fields and states
    Json,
    /// The same, an object a line
    Jsonl,
    /// The same as YAML
    Yaml,
    /// Names or ids only, one a line
    Name,
}

/// Something that can be listed.
pub(crate) trait View: Serialize {
    /// Message on stderr when a list is empty.
    const EMPTY: &'static str;
    fn header(wide: bool) -> Vec<&'static str>;
    /// One cell per title.
    fn row(&self, wide: bool, now: Time) -> Vec<Field>;
    /// What `-o name` prints.
    fn name(&self) -> String;
}

/// Something that can be shown alone, as titled lines.
pub(crate) trait Details: View {
    fn details(&self, wide: bool, now: Time) -> Vec<(&'static str, Field)>;
}

/// Prints results in one format.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Printer {
    format: Format,
    color: bool,
    /// Columns of the terminal, where there is one.
    width: Option<usize>,
}

impl Printer {
    /// A printer for this process's stdout.
    pub(crate) fn new(format: Format) -> Self {
        let terminal = io::stdout().is_terminal();
        Self {
            format,
            color: color_wanted(terminal, &|name| std::env::var(name).ok()),
            width: table::terminal_width(),
        }
    }

    /// A printer that prints as into a pipe.
    #[cfg(test)]
    pub(crate) const fn plain(format: Format) -> Self {
        Self {
            format,
            color: false,
            width: None,
        }
    }

    /// A printer for a terminal without colours.
    #[cfg(test)]
    pub(crate) const fn narrow(format: Format, width: usize) -> Self {
        Self {
            width: Some(width),
            ..Self::plain(format)
        }
    }

    /// Whether the output is meant for people.
    pub(crate) const fn for_people(self) -> bool {
        matches!(self.format, Format::Table | Format::Wide)
    }

    /// Whether more columns were asked for.
    pub(crate) const fn wide(self) -> bool {
        matches!(self.format, Format::Wide)
    }

    /// Whether only names and ids were asked for.
    pub(crate) const fn names_only(self) -> bool {
        matches!(self.format, Format::Name)
    }

    pub(crate) fn list<T: View>(self, items: &[T]) -> Result<(), Failure> {
        if items.is_empty() && self.for_people() {
            print_note(T::EMPTY);
            return Ok(());
        }
        emit(&self.render_list(items, Time::now())?)
    }

    /// Prints the one thing that a verb made or changed: for people a row under its titles, as data
    /// the thing itself.
    pub(crate) fn row<T: View>(self, item: &T) -> Result<(), Failure> {
        emit(&self.render_row(item, Time::now())?)
    }

    pub(crate) fn one<T: Details>(self, item: &T) -> Result<(), Failure> {
        emit(&self.render_one(item, Time::now())?)
    }

    /// Prints one item of a stream as one line; false when the output is closed.
    pub(crate) fn line<T: View>(self, item: &T) -> Result<bool, Failure> {
        write_out(&self.render_line(item, Time::now())?)
    }

    /// Draws a list again on a terminal, with a line below it; false when the output is closed.
    pub(crate) fn screen<T: View>(self, items: &[T], below: &str) -> Result<bool, Failure> {
        const HOME_AND_CLEAR: &str = "\x1b[H\x1b[2J";
        let list = self.render_list(items, Time::now())?;
        write_out(&format!("{HOME_AND_CLEAR}{list}\n{below}\n"))
    }

    /// One item of a stream as one line; pure, for tests.
    pub(crate) fn render_line<T: View>(self, item: &T, now: Time) -> Result<String, Failure> {
        Ok(match self.format {
            Format::Json | Format::Jsonl => {
                serde_json::to_string(item).map_err(|error| unprintable(&error))? + "\n"
            }
            Format::Yaml => format!("---\n{}", yaml(item)?),
            Format::Name => item.name() + "\n",
            Format::Table | Format::Wide => table::line(item.row(self.wide(), now)) + "\n",
        })
    }

    /// A list as text; pure, for tests.
    pub(crate) fn render_list<T: View>(self, items: &[T], now: Time) -> Result<String, Failure> {
        Ok(match self.format {
            Format::Json => json(&items)?,
            Format::Jsonl => items.iter().map(json_line).collect::<Result<_, _>>()?,
            Format::Yaml => yaml(&items)?,
            Format::Name => items.iter().map(|item| item.name() + "\n").collect(),
            Format::Table | Format::Wide => {
                let rows = items
                    .iter()
                    .map(|item| item.row(self.wide(), now))
                    .collect();
                self.table(Some(&T::header(self.wide())), rows)
            }
        })
    }

    /// One row as text; pure, for tests.
    pub(crate) fn render_row<T: View>(self, item: &T, now: Time) -> Result<String, Failure> {
        match self.format {
            Format::Json => json(item),
            Format::Yaml => yaml(item),
            _ => self.render_list(std::slice::from_ref(item), now),
        }
    }

    /// Rows as a table, within the width of the terminal unless all of it was asked for.
    fn table(self, titles: Option<&[&str]>, rows: Vec<Vec<Field>>) -> String {
        let width = self.width.filter(|_| !self.wide());
        table::columns(titles, rows, self.color, width)
    }

    /// One item as text; pure, for tests.
    pub(crate) fn render_one<T: Details>(self, item: &T, now: Time) -> Result<String, Failure> {
        Ok(match self.format {
            Format::Json => json(item)?,
            Format::Jsonl => json_line(item)?,
            Format::Yaml => yaml(item)?,
            Format::Name => item.name() + "\n",
            Format::Table | Format::Wide => {
                table::lines(item.details(self.wide(), now), self.color)
            }
        })
    }
}

fn json<T: Serialize + ?Sized>(value: &T) -> Result<String, Failure> {
    serde_json::to_string_pretty(value)
        .map(|text| text + "\n")
        .map_err(|error| unprintable(&error))
}

fn json_line<T: Serialize + ?Sized>(value: &T) -> Result<String, Failure> {
    serde_json::to_string(value)
        .map(|text| text + "\n")
        .map_err(|error| unprintable(&error))
}

fn yaml<T: Serialize + ?Sized>(value: &T) -> Result<String, Failure> {
    crate::yaml::write(value).map_err(|error| unprintable(&error))
}

fn unprintable(error: &dyn std::error::Error) -> Failure {
    Failure::new(
        Exit::Error,
        format!("the result cannot be printed: {error}"),
        "Try another format with `-o`.",
    )
}

/// Writes data to stdout. A closed pipe (`| head`) is no error.
pub(crate) fn emit(text: &str) -> Result<(), Failure> {
    write_out(text).map(|_| ())
}

/// Writes data to stdout; false when the pipe is closed.
fn write_out(text: &str) -> Result<bool, Failure> {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::new(
            Exit::Error,
            format!("cannot write to the standard output: {error}"),
            "Check where the output goes.",
        )),
    }
}

/// Prints a message on stderr. A closed stderr is no error.
pub(crate) fn print_note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Whether to print colours: on a terminal that has them, or where `CLICOLOR_FORCE` asks for them.
/// `NO_COLOR` wins.
fn color_wanted(terminal: bool, env: &dyn Fn(&str) -> Option<String>) -> bool {
    let is_off = env("NO_COLOR").is_some_and(|value| !value.is_empty());
    let is_forced = env("CLICOLOR_FORCE").is_some_and(|value| !value.is_empty() && value != "0");
    let is_dumb = env("TERM").is_some_and(|term| term == "dumb");
    !is_off && (is_forced || (terminal && !is_dumb))
}

#[cfg(test)]
mod tests {
    use kernex_proto::v1;

    use super::{deployment::DeploymentView, *};

    #[test]
    fn what_a_verb_changed_is_one_thing_as_data_and_a_row_for_people() {
        let id = "0197b0b4-0000-7000-8000-000000000001";
        let deployment = v1::Deployment {
            id: id.into(),
            ..v1::Deployment::default()
        };
        let view = DeploymentView::from(deployment);
        let shown = |format| Printer::plain(format).render_row(&view, Time::now());
        for format in [Format::Json, Format::Jsonl, Format::Yaml] {
            let text = shown(format).expect("it is printed");
            let read: serde_json::Value = match format {
                Format::Yaml => crate::yaml::read(&text).expect("YAML"),
                _ => serde_json::from_str(&text).expect("JSON"),
            };
            assert_eq!(read["id"], id, "{text}");
        }
        let table = shown(Format::Table).expect("it is printed");
        assert_eq!(table.lines().count(), 2, "titles and a row: {table}");
    }

    #[test]
    fn colours_are_for_terminals_and_for_who_asks() {
        let wanted = |terminal, set: &[(&str, &str)]| {
            let env = |name: &str| {
                let found = set.iter().find(|(key, _)| *key == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            color_wanted(terminal, &env)
        };
        assert!(wanted(true, &[]) && !wanted(false, &[]));
        assert!(!wanted(true, &[("NO_COLOR", "1")]));
        assert!(!wanted(true, &[("TERM", "dumb")]));
        assert!(wanted(false, &[("CLICOLOR_FORCE", "1")]));
        assert!(!wanted(false, &[("CLICOLOR_FORCE", "0")]));
        let both = [("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1")];
        assert!(!wanted(true, &both));
    }
}
