//! Ctrl-C and SIGTERM: the verb that is under way is dropped, and its temporary files with it.
//!
//! A verb may be blocked in a write that nobody reads. So a second signal, or some time after the
//! first, ends the process without waiting for it.

use std::{future::Future, process, time::Duration};

use tokio::{sync::oneshot, task::JoinSet};

use crate::error::{Exit, Failure};

/// How long a verb has to let go after a signal, and what blocks a thread at the end.
pub(crate) const GRACE: Duration = Duration::from_secs(2);

/// What asked this process to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// Ctrl-C.
    Interrupt,
    Terminate,
}

impl Signal {
    pub(crate) const fn exit(self) -> Exit {
        match self {
            Self::Interrupt => Exit::Interrupted,
            Self::Terminate => Exit::Terminated,
        }
    }

    fn failure(self) -> Failure {
        let message = match self {
            Self::Interrupt => "interrupted",
            Self::Terminate => "asked to stop by SIGTERM",
        };
        Failure::new(
            self.exit(),
            message,
            "No temporary file is left. What the server was already asked for may have happened: look before you repeat it.",
        )
    }
}

/// Runs a verb until it ends or a signal comes. A verb that waits for a signal itself sees it
/// first.
pub(crate) async fn unless_interrupted<F>(verb: F) -> Result<(), Failure>
where
    F: Future<Output = Result<(), Failure>>,
{
    let (tell, told) = oneshot::channel();
    let mut watcher = JoinSet::<()>::new();
    watcher.spawn(async move {
        let signal = asked_to_stop().await;
        let _ = tell.send(signal);
        tokio::select! {
            _ = asked_to_stop() => {}
            () = tokio::time::sleep(GRACE) => {}
        }
        process::exit(signal.exit().code().into());
    });
    tokio::select! {
        biased;
        result = verb => result,
        Ok(signal) = told => Err(signal.failure()),
    }
}

/// Resolves at Ctrl-C or SIGTERM. Where that cannot be seen, they end the process as usual.
#[cfg(unix)]
pub(crate) async fn asked_to_stop() -> Signal {
    use tokio::signal::unix::{SignalKind, signal};
    let signals = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    );
    let (Ok(mut interrupt), Ok(mut terminate)) = signals else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => Signal::Interrupt,
        _ = terminate.recv() => Signal::Terminate,
    }
}

/// Resolves at Ctrl-C.
#[cfg(not(unix))]
pub(crate) async fn asked_to_stop() -> Signal {
    match tokio::signal::ctrl_c().await {
        Ok(()) => Signal::Interrupt,
        Err(_) => std::future::pending().await,
    }
}
