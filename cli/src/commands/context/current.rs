//! `context current`

use crate::{
    context::ConfigFile,
    error::{Exit, Failure},
    output::emit,
};

/// Prints the name alone, for scripts.
pub(super) fn run(file: &ConfigFile) -> Result<(), Failure> {
    match file.read()?.current {
        Some(name) => emit(&format!("{name}\n")),
        None => Err(Failure::new(
            Exit::NotFoundOrConflict,
            "no context is the current one",
            "Choose one with `kernexctl context use NAME`.",
        )),
    }
}
