//! What each command does: resolve the context, make one or two calls, print.

use crate::{
    args::OutputArg,
    client::{Client, uncounted_pages},
    context::{ConfigFile, Context, process_env, resolve},
    error::{Exit, Failure},
    output::{Printer, View, print_note},
};

pub(crate) mod audit;
pub(crate) mod bundle;
pub(crate) mod completion;
pub(crate) mod config;
pub(crate) mod context;
pub(crate) mod deploy;
pub(crate) mod deployment;
pub(crate) mod device;
pub(crate) mod doctor;
pub(crate) mod enrollment;
pub(crate) mod event;
pub(crate) mod explain;
pub(crate) mod man;
mod reconnect;
pub(crate) mod script_output;
pub(crate) mod status;
pub(crate) mod support;
pub(crate) mod token;
pub(crate) mod verbs;
pub(crate) mod version;
pub(crate) mod wait;

/// The start of every command that talks to a server.
pub(crate) struct Session {
    context: Option<String>,
    proxy: Option<String>,
}

impl Session {
    /// With the context of `--context` and the proxy of `--proxy`, where they were given.
    pub(crate) const fn new(context: Option<String>, proxy: Option<String>) -> Self {
        Self { context, proxy }
    }

    /// The proxy of the command line.
    pub(crate) fn proxy(&self) -> Option<&str> {
        self.proxy.as_deref()
    }

    /// The server to talk to, and what is needed for that.
    pub(crate) fn context(&self) -> Result<Context, Failure> {
        let contexts = ConfigFile::locate(&process_env)?.read()?;
        resolve(self.context.as_deref(), &process_env, &contexts)
    }

    /// Connects to the server of the context.
    pub(crate) async fn connect(&self) -> Result<Client, Failure> {
        Client::connect_by(&self.context()?, self.proxy.as_deref()).await
    }
}

/// Fetches a list page by page, at most `limit` items of it, and prints it as views of type `V`.
pub(crate) async fn print_pages<V, T, F, Fut>(
    limit: Option<u32>,
    output: OutputArg,
    fetch: F,
) -> Result<(), Failure>
where
    V: View + From<T>,
    F: FnMut(u32, String) -> Fut,
    Fut: Future<Output = Result<(Vec<T>, String), Failure>>,
{
    let listed = uncounted_pages(limit, fetch).await?;
    let views: Vec<V> = listed.items.into_iter().map(V::from).collect();
    Printer::new(output.output).list(&views)?;
    if listed.more {
        print_note(&format!(
            "There are more than these {}; a higher `--limit` prints them.",
            views.len()
        ));
    }
    Ok(())
}

/// Asks before something that cannot be undone. Without a terminal it cannot ask, so `--yes` is
/// needed.
pub(crate) async fn confirm(consent: crate::args::Consent, question: &str) -> Result<(), Failure> {
    use std::io::{BufRead as _, IsTerminal as _, Write as _};
    if consent.yes {
        return Ok(());
    }
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(Failure::usage(
            format!("this asks \"{question}\", and there is no terminal to answer on"),
            "Add `--yes` to answer yes in advance.",
        ));
    }
    let mut stderr = std::io::stderr();
    let _ = write!(stderr, "{question} [y/N] ");
    let _ = stderr.flush();
    // A thread of its own: a signal does not wait for the answer.
    let (tell, told) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut answer = String::new();
        let _ = stdin.lock().read_line(&mut answer);
        let _ = tell.send(answer);
    });
    let answer = told.await.unwrap_or_default();
    if matches!(answer.trim(), "y" | "Y" | "yes" | "Yes") {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Error,
        "nothing was changed",
        "Answer `y` to go on.",
    ))
}

/// Takes a field of an answer that every server fills.
pub(crate) fn present<T>(field: Option<T>, name: &str) -> Result<T, Failure> {
    field.ok_or_else(|| {
        Failure::new(
            Exit::Error,
            format!("the server's answer has no {name}"),
            "Check that both programs have versions that belong together.",
        )
    })
}
