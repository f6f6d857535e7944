//! `context use`

use crate::{
    context::ConfigFile,
    error::{Exit, Failure},
    output::print_note,
};

/// Makes a context the one that is used without `--context`.
pub(super) fn run(file: &ConfigFile, name: String) -> Result<(), Failure> {
    file.change(|all| {
        if !all.contexts.contains_key(&name) {
            return Err(Failure::new(
                Exit::NotFoundOrConflict,
                format!("there is no context `{name}`"),
                "See which there are with `kernexctl context list`.",
            ));
        }
        print_note(&format!("`{name}` is the current context now."));
        all.current = Some(name);
        Ok(())
    })
}
