//! `completion`: a script that completes commands in a shell. The script calls this program, which
//! knows its commands and asks the server for names (see `complete`).

use clap_complete::{Shell, env::Shells};

use crate::{
    complete::VARIABLE,
    error::{Exit, Failure},
    output::emit,
};

pub(crate) fn run(shell: Shell) -> Result<(), Failure> {
    const NAME: &str = "kernexctl";
    let name = shell.to_string();
    let shells = Shells::builtins();
    let Some(completer) = shells.completer(&name) else {
        return Err(Failure::new(
            Exit::Usage,
            format!("there is no script for {name}"),
            "Choose bash, zsh, fish, elvish or powershell.",
        ));
    };
    let mut script = Vec::new();
    completer
        .write_registration(VARIABLE, NAME, NAME, NAME, &mut script)
        .map_err(|error| {
            Failure::new(
                Exit::Error,
                format!("the script cannot be written: {error}"),
                "Try another shell.",
            )
        })?;
    emit(&String::from_utf8_lossy(&script))
}
