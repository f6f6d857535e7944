//! Reaping orphans: a subreaper has to wait for processes it never started.

use std::time::Duration;

use rustix::process::{Pid, WaitOptions, waitpid};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::process::Process;

/// Processes end in bursts; one look at the process table is enough for each burst.
const PAUSE: Duration = Duration::from_secs(1);

/// Reaps every dead orphan. Children that this process started are left to the code that started
/// them.
pub(super) fn reap_orphans() {
    let Some(me) = i32::try_from(std::process::id())
        .ok()
        .and_then(Process::read)
    else {
        return;
    };
    for process in Process::all() {
        if process.zombie
            && process.parent == me.pid
            && process.is_orphan(&me)
            && let Some(pid) = Pid::from_raw(process.pid)
        {
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        }
    }
}

/// Reaps the survivors of successful scripts when they end.
pub(crate) struct Reaper;

impl Reaper {
    pub(crate) async fn run(stop: CancellationToken) {
        let mut deaths = match signal(SignalKind::child()) {
            Ok(deaths) => deaths,
            Err(error) => {
                tracing::warn!(%error, "cannot watch for dead processes");
                return;
            }
        };
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                death = deaths.recv() => if death.is_none() { return },
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(PAUSE) => {}
            }
            let _ = tokio::task::spawn_blocking(reap_orphans).await;
        }
    }
}
