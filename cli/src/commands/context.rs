//! `context`: which control plane to talk to.

mod export;

use std::{
    fs,
    path::{Path, PathBuf},
};

use kernex_proto::operator_token;

use crate::{
    args::{ContextCommand, OutputArg},
    context::{ConfigFile, Context, check_server, process_env, read_ca},
    error::{Exit, Failure},
    output::{Printer, access::ContextView, print_note},
};

mod change;

pub(crate) fn run(command: ContextCommand) -> Result<(), Failure> {
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
            let context = context(&server, ca.as_deref(), token_file, token)?;
            add(&file, &name, context, replace)
        }
        ContextCommand::Use { name } => make_current(&file, name),
        ContextCommand::List { output } => list(&file, output),
        ContextCommand::Export { name, file: to } => export::run(&file, name.as_deref(), to),
        ContextCommand::Current => change::current(&file),
        ContextCommand::Rename { name, to } => change::rename(&file, &name, to),
        ContextCommand::Delete { name, consent } => change::delete(&file, &name, consent),
    }
}

/// The context that was typed.
fn context(
    server: &str,
    ca: Option<&Path>,
    token_file: Option<PathBuf>,
    token: Option<String>,
) -> Result<Context, Failure> {
    let server = check_server(server)?;
    if ca.is_none() && server.starts_with("https://") {
        return Err(Failure::usage(
            format!("the CA of {server} is not given"),
            "Add `--ca FILE` with the `ca.pem` of the server's data folder, or `--ca system` where its certificate is from \
             an authority that this machine trusts.",
        ));
    }
    let token = match (token, token_file) {
        (Some(token), _) => token,
        (None, Some(path)) => {
            fs::read_to_string(&path).map_err(|error| Failure::file("read", &path, &error))?
        }
        (None, None) => String::new(),
    };
    let token = token.trim().to_owned();
    if token.is_empty() {
        return Err(Failure::usage(
            "the operator token is empty",
            "Take the one of the server's `admin.token`, or ask an administrator for one.",
        ));
    }
    operator_token::check(&token).map_err(|why| {
        Failure::usage(
            why.to_string(),
            "Copy the token whole: the server's `admin.token`, or what `kernexctl token create` shows.",
        )
    })?;
    Ok(Context {
        server,
        token,
        ca: ca.map(read_ca).transpose()?,
        dev_process: None,
    })
}

fn add(file: &ConfigFile, name: &str, context: Context, replace: bool) -> Result<(), Failure> {
    let current = file.change(|all| {
        let before = all.contexts.get(name).map(|before| &before.server);
        if let Some(other) = before.filter(|other| **other != context.server && !replace) {
            return Err(Failure::new(
                Exit::NotFoundOrConflict,
                format!("the context `{name}` is there already, for {other}"),
                "Choose another name, or add `--replace`.",
            ));
        }
        all.contexts.insert(name.to_owned(), context);
        Ok(all.current.get_or_insert_with(|| name.to_owned()).clone())
    })?;
    print_note(&format!(
        "Context `{name}` is stored in `{}`.",
        file.path().display()
    ));
    print_note(&if current == name {
        "It is the current one; try `kernexctl device list`.".to_owned()
    } else {
        format!("The current one is `{current}`; change that with `kernexctl context use {name}`.")
    });
    Ok(())
}

fn make_current(file: &ConfigFile, name: String) -> Result<(), Failure> {
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

fn list(file: &ConfigFile, output: OutputArg) -> Result<(), Failure> {
    let all = file.read()?;
    let views: Vec<ContextView> = all
        .contexts
        .into_iter()
        .map(|(name, context)| ContextView {
            current: all.current.as_ref() == Some(&name),
            server: context.server,
            name,
        })
        .collect();
    Printer::new(output.output).list(&views)
}
