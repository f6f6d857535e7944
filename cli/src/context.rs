//! Which control plane to talk to: the configuration file, the environment and `--context`,
//! resolved in one place.
//!
//! The file holds secrets, so its mode is 0600 and that of its folder 0700. It is replaced as a
//! whole: a reader sees the old one or the new one. Writers take turns by a lock on the folder.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Exit, Failure},
    files,
};

/// The next step when there is no context.
const NO_CONTEXT: &str = if cfg!(feature = "dev") {
    "Run `kernexctl context add NAME --server URL --ca FILE --token-file FILE`, or try `kernexctl dev`."
} else {
    "Run `kernexctl context add NAME --server URL --ca FILE --token-file FILE`."
};

/// A server and what is needed to talk to it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Context {
    /// URL, `https://` or, on this machine only, `http://`.
    pub(crate) server: String,
    pub(crate) token: String,
    /// CA certificate, PEM, or [`SYSTEM_CA`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<String>,
    /// Process that runs this server, when `kernexctl dev` made the context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) dev_process: Option<u32>,
}

/// The content of the configuration file.
#[derive(Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Contexts {
    /// Name of the context that is used when none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<String>,
    /// All contexts by name.
    #[serde(default)]
    pub(crate) contexts: BTreeMap<String, Context>,
}

#[derive(Debug, Clone)]
pub(crate) struct ConfigFile {
    path: PathBuf,
    /// Whether the folder belongs to Kernex, and is removed when nothing is left in it.
    own_folder: bool,
}

/// Reads one environment variable; a value, so that tests need not change the process.
pub(crate) type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The process's environment. Empty is the same as not set.
pub(crate) fn process_env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl ConfigFile {
    /// `KERNEXCTL_CONFIG`, or the usual place.
    pub(crate) fn locate(env: Env<'_>) -> Result<Self, Failure> {
        if let Some(path) = env("KERNEXCTL_CONFIG") {
            return Ok(Self {
                path: path.into(),
                own_folder: false,
            });
        }
        let folder = directories::ProjectDirs::from("", "", "kernex").ok_or_else(|| {
            Failure::new(
                Exit::Error,
                "there is no home folder to keep the configuration in",
                "Set KERNEXCTL_CONFIG to a file, or use KERNEX_SERVER, KERNEX_TOKEN and KERNEX_CA.",
            )
        })?;
        Ok(Self {
            path: folder.config_dir().join("config.toml"),
            own_folder: true,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads it. A missing file counts as an empty one.
    pub(crate) fn read(&self) -> Result<Contexts, Failure> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Contexts::default()),
            Err(error) => return Err(Failure::file("read", &self.path, &error)),
        };
        toml::from_str(&text).map_err(|error| {
            Failure::new(
                Exit::Error,
                // The error's own text quotes lines of the file, which hold tokens.
                format!(
                    "`{}` is not a valid configuration: {}",
                    self.path.display(),
                    error.message()
                ),
                "Correct it, or move it away and add the contexts again.",
            )
        })
    }

    /// Changes it under the lock, so that two writers cannot overwrite each other.
    pub(crate) fn change<T>(
        &self,
        change: impl FnOnce(&mut Contexts) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let folder = match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        if !folder.exists() {
            files::make_private_folder(folder)
                .map_err(|error| Failure::file("create", folder, &error))?;
        }
        let lock = files::lock_of(folder).map_err(|error| Failure::file("open", folder, &error))?;
        lock.lock()
            .map_err(|error| Failure::file("lock", folder, &error))?;

        let mut contexts = self.read()?;
        let result = change(&mut contexts)?;
        self.write(folder, &contexts)
            .map_err(|error| Failure::file("write", &self.path, &error))?;
        Ok(result)
    }

    fn write(&self, folder: &Path, contexts: &Contexts) -> io::Result<()> {
        if *contexts == Contexts::default() {
            // Nothing to keep, so nothing is left behind.
            match fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            if self.own_folder {
                let _ = fs::remove_dir(folder);
            }
            return Ok(());
        }
        let text = toml::to_string(contexts).map_err(io::Error::other)?;
        // Temporary files are 0600 from the start.
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(text.as_bytes())?;
        files::keep_private(file.as_file())?;
        file.as_file().sync_all()?;
        file.persist(&self.path).map_err(|error| error.error)?;
        Ok(())
    }
}

/// Decides which server to talk to. In this order: `--context`; `KERNEX_SERVER` with its own token
/// and CA, so that no token is ever sent to another server; `KERNEX_CONTEXT`; the current context.
pub(crate) fn resolve(
    typed: Option<&str>,
    env: Env<'_>,
    contexts: &Contexts,
) -> Result<Context, Failure> {
    if typed.is_none()
        && let Some(server) = env("KERNEX_SERVER")
    {
        let token = env("KERNEX_TOKEN").ok_or_else(|| {
            Failure::usage(
                "KERNEX_SERVER is set but KERNEX_TOKEN is not",
                "Set KERNEX_TOKEN to an operator token.",
            )
        })?;
        return Ok(Context {
            server: check_server(&server)?,
            token,
            ca: ca_from_env(env)?,
            dev_process: None,
        });
    }
    let asked = typed.map(str::to_owned).or_else(|| env("KERNEX_CONTEXT"));
    let Some(name) = asked.or_else(|| contexts.current.clone()) else {
        return Err(Failure::usage(
            "there is no context, so it is unknown which server to talk to",
            NO_CONTEXT,
        ));
    };
    let Some(context) = contexts.contexts.get(&name) else {
        return Err(Failure::new(
            Exit::NotFoundOrConflict,
            format!("there is no context `{name}`"),
            "See which there are with `kernexctl context list`.",
        ));
    };
    let mut context = context.clone();
    if typed.is_none() {
        if let Some(token) = env("KERNEX_TOKEN") {
            context.token = token;
        }
        if let Some(ca) = ca_from_env(env)? {
            context.ca = Some(ca);
        }
    }
    Ok(context)
}

fn ca_from_env(env: Env<'_>) -> Result<Option<String>, Failure> {
    env("KERNEX_CA")
        .map(|path| read_ca(Path::new(&path)))
        .transpose()
}

/// The CA of a context that trusts what its machine trusts.
pub(crate) const SYSTEM_CA: &str = "system";

/// The certificates of a file; [`SYSTEM_CA`] is no file.
pub(crate) fn read_ca(path: &Path) -> Result<String, Failure> {
    if path == Path::new(SYSTEM_CA) {
        return Ok(SYSTEM_CA.to_owned());
    }
    let pem = fs::read_to_string(path).map_err(|error| Failure::file("read", path, &error))?;
    if pem.contains("-----BEGIN CERTIFICATE-----") {
        return Ok(pem);
    }
    Err(Failure::usage(
        format!("`{}` holds no certificate in PEM form", path.display()),
        "Take `ca.pem` from the server's data folder.",
    ))
}

/// Checks a server URL and completes it. Tokens are never sent unencrypted, except within this
/// machine.
pub(crate) fn check_server(text: &str) -> Result<String, Failure> {
    let complete = if text.contains("://") {
        text.to_owned()
    } else {
        format!("https://{text}")
    };
    let wrong = |why: &str| {
        Failure::usage(
            format!("`{text}` will not do as a server URL: {why}"),
            "Write it like https://kernex.example:7443.",
        )
    };
    let uri: http::Uri = complete.parse().map_err(|_| wrong("it is not a URL"))?;
    let host = uri.host().unwrap_or_default();
    if host.is_empty() {
        return Err(wrong("it names no host"));
    }
    if uri.path() != "/" || uri.query().is_some() {
        return Err(wrong("it has a path"));
    }
    let here = matches!(host, "localhost" | "[::1]") || host.starts_with("127.");
    match uri.scheme_str() {
        Some("https") => {}
        Some("http") if here => {}
        Some("http") => {
            return Err(wrong(
                "http:// is for this machine only, the token would travel in the clear",
            ));
        }
        _ => return Err(wrong("it has to start with https://")),
    }
    Ok(complete.trim_end_matches('/').to_owned())
}

#[cfg(all(test, unix))]
mod tests;
