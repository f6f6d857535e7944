//! `context export`: what a program in another language needs to reach a control plane.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use kernex_proto::trust;
use serde::Serialize;

use crate::{
    context::{ConfigFile, Context, process_env},
    error::{Exit, Failure},
    files,
    output::print_note,
};

/// The context file of clients in other languages.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct ContextFile {
    server: String,
    /// SHA-256 of the CA's public key (SPKI, DER), in hex.
    pin: String,
    token: String,
}

pub(super) fn run(
    file: &ConfigFile,
    name: Option<&str>,
    to: Option<PathBuf>,
) -> Result<(), Failure> {
    let context = crate::context::resolve(name, &process_env, &file.read()?)?;
    let text = serde_json::to_string_pretty(&content(context)?)
        .map_err(|error| Failure::new(Exit::Error, format!("cannot write JSON: {error}"), ""))?;
    let Some(path) = to else {
        return writeln!(io::stdout(), "{text}")
            .map_err(|error| Failure::file("write", Path::new("the output"), &error));
    };
    write_private(&path, &text).map_err(|error| Failure::file("write", &path, &error))?;
    print_note(&format!(
        "`{}` holds a token; whoever can read it may do what the token may.",
        path.display()
    ));
    Ok(())
}

fn content(context: Context) -> Result<ContextFile, Failure> {
    let pin = context.ca.as_deref().and_then(trust::pin_of);
    let pin = pin.ok_or_else(|| {
        Failure::usage(
            format!("the context for {} has no CA to pin", context.server),
            "Clients in other languages speak TLS only; export a context of an https:// server.",
        )
    })?;
    Ok(ContextFile {
        server: context.server,
        pin: pin.to_string(),
        token: context.token,
    })
}

/// The file appears as a whole, and only its owner can read it.
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    // Temporary files are 0600 from the start.
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    writeln!(file, "{text}")?;
    files::keep_private(file.as_file())?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(ca: Option<&str>) -> Context {
        Context {
            server: "https://kernex.example:7443".into(),
            token: "secret".into(),
            ca: ca.map(str::to_owned),
            dev_process: None,
        }
    }

    #[test]
    fn a_context_without_a_ca_cannot_be_exported() {
        for ca in [
            None,
            Some(""),
            Some("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"),
        ] {
            let refused = content(context(ca)).expect_err("there is nothing to pin");
            assert_eq!(refused.exit, Exit::Usage);
            assert!(!refused.message.contains("secret"), "{}", refused.message);
        }
    }
}
