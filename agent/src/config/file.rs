//! The TOML file with settings, and names in it and in the environment that are no settings.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use kernex_proto::near;
use serde::Deserialize;

use super::{Args, NoNewPrivs};

/// The TOML file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) state_dir: Option<PathBuf>,
    pub(super) server: Option<Addresses>,
    pub(super) proxy: Option<String>,
    pub(super) token: Option<String>,
    pub(super) token_file: Option<PathBuf>,
    pub(super) name: Option<String>,
    pub(super) max_script_seconds: Option<u64>,
    pub(super) keep_releases: Option<usize>,
    pub(super) max_reconnect_seconds: Option<u64>,
    pub(super) max_download_rate: Option<String>,
    pub(super) max_archive_space: Option<String>,
    pub(super) no_new_privs: Option<NoNewPrivs>,
}

/// One address, or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Addresses {
    One(String),
    Several(Vec<String>),
}

impl From<Addresses> for Vec<String> {
    fn from(addresses: Addresses) -> Self {
        match addresses {
            Addresses::One(address) => vec![address],
            Addresses::Several(addresses) => addresses,
        }
    }
}

pub(super) fn read_file(path: &Path) -> anyhow::Result<File> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the configuration file {}", path.display()))?;
    let not_valid = || format!("the configuration file {} is not valid", path.display());
    let table: toml::Table = toml::from_str(&text).with_context(not_valid)?;
    let known = settings(|argument| Some(argument.get_id().as_str().to_owned()));
    let known = known
        .iter()
        .map(String::as_str)
        .filter(|name| !NOT_IN_FILE.contains(name));
    let strangers = near::strangers(table.keys().map(String::as_str), known, "");
    if !strangers.is_empty() {
        let all: Vec<String> = strangers.iter().map(ToString::to_string).collect();
        return Err(anyhow::anyhow!(all.join("; ")).context(not_valid()));
    }
    toml::from_str(&text).with_context(not_valid)
}

/// Settings that cannot stand in the file, because they count before it is read.
const NOT_IN_FILE: [&str; 5] = ["config", "log", "log_format", "help", "version"];

/// What `name` takes from each argument, such as its id or its variable.
fn settings(name: impl Fn(&clap::Arg) -> Option<String>) -> Vec<String> {
    let command = <Args as clap::CommandFactory>::command();
    command.get_arguments().filter_map(name).collect()
}

/// The variables that hold settings.
pub(crate) fn setting_variables() -> Vec<String> {
    settings(|argument| Some(argument.get_env()?.to_str()?.to_owned()))
}

/// The same as [`settings`] of those whose values may be secret: their help shows no value either.
pub(crate) fn secret_settings(name: impl Fn(&clap::Arg) -> Option<String>) -> Vec<String> {
    settings(|argument| {
        let is_secret = argument.is_hide_env_values_set();
        is_secret.then(|| name(argument)).flatten()
    })
}

/// Variables of the environment that look like settings and are none.
pub(crate) fn strange_variables(
    environment: impl Iterator<Item = std::ffi::OsString>,
) -> Vec<near::Stranger> {
    let known = setting_variables();
    let given: Vec<String> = environment
        .filter_map(|name| name.into_string().ok())
        .filter(|name| name.starts_with("KERNEX_AGENT"))
        .collect();
    near::strangers(
        given.iter().map(String::as_str),
        known.iter().map(String::as_str),
        "KERNEX_AGENT_",
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::config::Config;

    fn parse(args: &[&str]) -> anyhow::Result<Config> {
        Args::try_parse_from([&["kernex-agent", "run"], args].concat())?.into_config()
    }

    #[test]
    fn a_mistyped_setting_is_named_with_what_was_meant() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "keep_relases = 3\nlog = \"info\"\n").unwrap();
        let why = parse(&["--config", file.path().to_str().unwrap()]).unwrap_err();
        let why = format!("{why:#}");
        assert!(why.contains("did you mean `keep_releases`?"), "{why}");
        assert!(why.contains("`log`"), "{why}");
        let names = ["KERNEX_AGENT_SERVR", "KERNEX_AGENT_SERVER", "KERNEX_LISTEN"];
        let strange = strange_variables(names.map(Into::into).into_iter());
        assert_eq!(strange.len(), 1);
        assert!(strange[0].to_string().contains("`KERNEX_AGENT_SERVER`"));
    }

    /// What `--help` lists stands in the table for operators too, and nothing else does.
    #[test]
    fn the_table_for_operators_names_each_flag_with_its_variable() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operators.md");
        let document = std::fs::read_to_string(path).unwrap();
        let (_, table) = document.split_once("| flag of `kernex-agent` |").unwrap();
        let rows: Vec<&str> = table
            .lines()
            .skip(2)
            .take_while(|line| line.starts_with('|'))
            .collect();
        let mut wanted = settings(|argument| {
            let (flag, variable) = (argument.get_long()?, argument.get_env()?);
            Some(format!("| `--{flag}` | `{}` |", variable.display()))
        });
        let command = <Args as clap::CommandFactory>::command();
        let run = command.find_subcommand("run").unwrap();
        let of_run = run.get_arguments().filter_map(clap::Arg::get_long);
        wanted.extend(of_run.map(|flag| format!("| `run --{flag}` | |")));
        for row in &wanted {
            let is_there = rows.iter().any(|line| line.starts_with(row.as_str()));
            assert!(is_there, "docs/operators.md lacks {row}");
        }
        assert_eq!(rows.len(), wanted.len(), "{rows:#?}");
    }

    /// The list of names for the file comes from the flags; it must not name one that the file does
    /// not know.
    #[test]
    fn the_file_knows_each_setting() {
        for name in settings(|argument| Some(argument.get_id().as_str().to_owned())) {
            if NOT_IN_FILE.contains(&name.as_str()) {
                continue;
            }
            let Err(error) = toml::from_str::<File>(&format!("{name} = []")) else {
                continue;
            };
            let why = error.to_string();
            assert!(!why.contains("unknown field"), "{why}");
        }
    }
}
