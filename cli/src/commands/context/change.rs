//! `context current`, `rename` and `delete`.

use crate::{
    args::Consent,
    commands::confirm,
    context::{ConfigFile, Contexts},
    error::{Exit, Failure},
    output::{emit, print_note},
};

/// Prints the name alone, for scripts.
pub(super) fn current(file: &ConfigFile) -> Result<(), Failure> {
    match file.read()?.current {
        Some(name) => emit(&format!("{name}\n")),
        None => Err(Failure::new(
            Exit::NotFoundOrConflict,
            "no context is the current one",
            "Choose one with `kernexctl context use NAME`.",
        )),
    }
}

pub(super) fn rename(file: &ConfigFile, name: &str, to: String) -> Result<(), Failure> {
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

pub(super) fn delete(file: &ConfigFile, name: &str, consent: Consent) -> Result<(), Failure> {
    confirm(
        consent,
        &format!("Forget the context {name} and its token?"),
    )?;
    file.change(|all| {
        take(all, name)?;
        if all.current.as_deref() == Some(name) {
            all.current = None;
            print_note("No context is the current one any more; choose with `context use NAME`.");
        }
        Ok(())
    })
}

fn take(all: &mut Contexts, name: &str) -> Result<crate::context::Context, Failure> {
    all.contexts.remove(name).ok_or_else(|| {
        Failure::new(
            Exit::NotFoundOrConflict,
            format!("there is no context `{name}`"),
            "See which there are with `kernexctl context list`.",
        )
    })
}
