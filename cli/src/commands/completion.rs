//! `completion`: a script that completes commands in a shell.

use clap_complete::Shell;

use crate::{error::Failure, output::emit};

pub(crate) fn run(shell: Shell, command: &mut clap::Command) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, command, "kernexctl", &mut script);
    emit(&String::from_utf8_lossy(&script))
}
