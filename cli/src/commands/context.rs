//! `context`: which control plane to talk to.

use crate::{
    args::context::ContextCommand,
    context::{ConfigFile, Context, Contexts, process_env},
    error::{Exit, Failure},
};

mod add;
mod current;
mod delete;
mod export;
mod list;
mod make_current;
mod rename;

pub(crate) async fn run(command: ContextCommand) -> Result<(), Failure> {
    let file = ConfigFile::locate(&process_env)?;
    match command {
        ContextCommand::Add {
            name,
            replace,
            server,
            ca,
            token_file,
            token,
        } => {
            let context = add::context(&server, ca.as_deref(), token_file, token)?;
            add::run(&file, &name, context, replace)
        }
        ContextCommand::Use { name } => make_current::run(&file, name),
        ContextCommand::List { output } => list::run(&file, output),
        ContextCommand::Export { name, file: to } => export::run(&file, name.as_deref(), to),
        ContextCommand::Current => current::run(&file),
        ContextCommand::Rename { name, to } => rename::run(&file, &name, to),
        ContextCommand::Delete { name, consent } => delete::run(&file, &name, consent).await,
    }
}

/// Removes a context, which has to exist.
fn take(all: &mut Contexts, name: &str) -> Result<Context, Failure> {
    all.contexts.remove(name).ok_or_else(|| {
        Failure::new(
            Exit::NotFoundOrConflict,
            format!("there is no context `{name}`"),
            "See which there are with `kernexctl context list`.",
        )
    })
}
