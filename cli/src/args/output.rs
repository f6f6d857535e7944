//! `-o`, wherever it is typed: before the command, between its words or after it.

use std::{
    ffi::{OsStr, OsString},
    path::PathBuf,
};

use clap::{
    Arg, ArgMatches, Args, Command, Error, FromArgMatches, ValueEnum as _,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};

use crate::output::Format;

/// Name of the option in clap. Every command has it, and `bundle pack` and `pull` have one of the
/// same name for their file; clap gives one that stands before the command to all of them, so they
/// share one type.
const ID: &str = "output";

/// How to print.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OutputArg {
    pub(crate) output: Format,
}

/// Takes the word of a format, and keeps it as it was typed.
#[derive(Debug, Clone, Copy)]
struct FormatWord;

impl TypedValueParser for FormatWord {
    type Value = OsString;

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<OsString, Error> {
        PossibleValuesParser::new(words())
            .parse_ref(command, arg, value)
            .map(OsString::from)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(words().into_iter()))
    }
}

fn words() -> Vec<PossibleValue> {
    let formats = Format::value_variants().iter();
    formats
        .filter_map(clap::ValueEnum::to_possible_value)
        .collect()
}

fn option() -> Arg {
    Arg::new(ID)
        .short('o')
        .long("output")
        .value_name("FORMAT")
        .value_parser(FormatWord)
}

/// `-o` for every command below this one. Those commands read it by their [`OutputArg`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Everywhere;

impl Args for Everywhere {
    fn augment_args(command: Command) -> Command {
        command.arg(
            option()
                .global(true)
                .help("How to print the result of any command"),
        )
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Everywhere {
    fn from_arg_matches(_: &ArgMatches) -> Result<Self, Error> {
        Ok(Self)
    }

    fn update_from_arg_matches(&mut self, _: &ArgMatches) -> Result<(), Error> {
        Ok(())
    }
}

impl Args for OutputArg {
    fn augment_args(command: Command) -> Command {
        command.arg(
            option()
                .default_value("table")
                .help("How to print the result"),
        )
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for OutputArg {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let word = matches.get_one::<OsString>(ID);
        let format = word
            .and_then(|word| word.to_str())
            .and_then(|word| Format::from_str(word, false).ok());
        Ok(Self {
            output: format.unwrap_or(Format::Table),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// `-o FILE` of the commands that write one.
#[derive(Debug, Clone, Default)]
pub(crate) struct FileArg {
    pub(crate) path: Option<PathBuf>,
}

impl Args for FileArg {
    fn augment_args(command: Command) -> Command {
        command.arg(
            option()
                .value_name("FILE")
                .value_parser(clap::value_parser!(OsString))
                .value_hint(clap::ValueHint::FilePath)
                .help("File to write (default: NAME-VERSION.tar.gz here)"),
        )
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for FileArg {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let path = matches.get_one::<OsString>(ID).map(PathBuf::from);
        Ok(Self { path })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
