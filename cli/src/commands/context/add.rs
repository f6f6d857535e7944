//! `context add`

use std::{
    fs,
    path::{Path, PathBuf},
};

use kernex_proto::operator_token;

use crate::{
    context::{ConfigFile, Context, check_server, read_ca},
    error::{Exit, Failure},
    output::print_note,
};

/// The context that was typed.
pub(super) fn context(
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

/// Stores a context under a name.
pub(super) fn run(
    file: &ConfigFile,
    name: &str,
    context: Context,
    replace: bool,
) -> Result<(), Failure> {
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
