//! Burying orphans: a subreaper has to wait for processes it never started.

use std::time::Duration;

use rustix::process::{Pid, WaitOptions, waitpid};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::kin::Process;

/// Deaths come in bursts; one look at the process table is enough for each.
const PAUSE: Duration = Duration::from_secs(1);

/// Whether a child of ours is one we never started ourselves. What we start is the leader of a group of its own within
/// our session (a script) or a member of our group (anything else in this process).
pub(super) fn is_orphan(process: &Process, me: &Process) -> bool {
    process.session != me.session || (process.group != process.pid && process.group != me.group)
}

/// Waits for every dead orphan. Children started by this process are left to whoever started them.
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
            && is_orphan(&process, &me)
            && let Some(pid) = Pid::from_raw(process.pid)
        {
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        }
    }
}

/// Buries the survivors of successful scripts when their time comes.
pub(crate) struct Reaper;

impl Reaper {
    /// Runs until `stop`.
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
