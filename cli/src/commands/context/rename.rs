//! `context rename`

use super::take;
use crate::{
    context::ConfigFile,
    error::{Exit, Failure},
    output::print_note,
};

/// Gives a context another name; it stays the current one if it was.
pub(super) fn run(file: &ConfigFile, name: &str, to: String) -> Result<(), Failure> {
    file.change(|all| {
        if all.contexts.contains_key(&to) {
            return Err(Failure::new(
                Exit::NotFoundOrConflict,
                format!("the context `{to}` is there already"),
                "Choose another name, or delete that one first.",
            ));
        }
        let context = take(all, name)?;
        if all.current.as_deref() == Some(name) {
            all.current = Some(to.clone());
        }
        all.contexts.insert(to.clone(), context);
        print_note(&format!("The context `{name}` is called `{to}` now."));
        Ok(())
    })
}
