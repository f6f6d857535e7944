//! Commands as messages name them: with the flags that make them mean this agent.

use std::path::Path;

use clap::{ArgMatches, CommandFactory as _, parser::ValueSource};

use super::{Args, DEFAULT_STATE_DIR};

/// Flags of `enroll` that `run` does not need to mean the same agent.
const OF_ENROLMENT: [&str; 5] = ["token", "token_file", "name", "log", "log_format"];

/// ` --state-dir DIR`, to go behind a command; empty for the folder that it takes anyway.
pub(crate) fn state_dir_flag(state_dir: &Path) -> String {
    if state_dir == Path::new(DEFAULT_STATE_DIR) {
        return String::new();
    }
    format!(" --state-dir {}", quoted(&state_dir.to_string_lossy()))
}

/// The command that runs the agent which was enrolled with these arguments. A value that may be
/// secret is left out.
pub(crate) fn run_command(typed: &ArgMatches) -> String {
    let arguments = Args::command();
    let mut command = "kernex-agent run".to_owned();
    for id in typed.ids().map(clap::Id::as_str) {
        let found = arguments
            .get_arguments()
            .find(|argument| argument.get_id() == id);
        let Some((argument, flag)) = found.and_then(|it| Some((it, it.get_long()?))) else {
            continue;
        };
        if typed.value_source(id) != Some(ValueSource::CommandLine) || OF_ENROLMENT.contains(&id) {
            continue;
        }
        let values: Vec<String> = typed
            .get_raw(id)
            .into_iter()
            .flatten()
            .map(|value| quoted(&value.to_string_lossy()))
            .collect();
        // The enrolment keeps the address that it found the server at.
        if id == "server" && values.len() < 2 {
            continue;
        }
        for value in values {
            let shown = match argument.is_hide_env_values_set() {
                true => "...",
                false => &value,
            };
            command.push_str(&format!(" --{flag} {shown}"));
        }
    }
    command
}

/// As a shell reads it as one word.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_to_run_has_the_flags_that_mean_the_same_agent() {
        let after = |args: &[&str]| {
            let args = [&["kernex-agent", "enroll"], args].concat();
            run_command(&Args::command().try_get_matches_from(args).unwrap())
        };
        let enrol = ["--server", "https://a:1", "--token-file", "-", "--name=b"];
        assert_eq!(after(&enrol), "kernex-agent run");
        for (typed, wanted) in [
            (&["--state-dir", "./edge-1"][..], "--state-dir ./edge-1"),
            (&["--state-dir=it's here"], r"--state-dir 'it'\''s here'"),
            (&["--config", "a.toml"], "--config a.toml"),
            (&["--proxy", "http://ada:hunter2@p:1"], "--proxy ..."),
            (
                &["--server", "https://b:1"],
                "--server https://a:1 --server https://b:1",
            ),
            (&["--max-download-rate=2MiB"], "--max-download-rate 2MiB"),
        ] {
            let said = after(&[&enrol[..], typed].concat());
            assert_eq!(said, format!("kernex-agent run {wanted}"));
        }
        // Also where the flag stands before the command.
        let args = ["kernex-agent", "--state-dir", "/s", "enroll"];
        let typed = Args::command().try_get_matches_from(args).unwrap();
        assert_eq!(run_command(&typed), "kernex-agent run --state-dir /s");
    }

    #[test]
    fn the_folder_is_named_unless_it_is_the_usual_one() {
        assert_eq!(state_dir_flag(Path::new(DEFAULT_STATE_DIR)), "");
        assert_eq!(state_dir_flag(Path::new("/s")), " --state-dir /s");
    }
}
