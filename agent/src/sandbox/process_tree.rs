//! Finding and killing every descendant of a script, also those that left its session and lost
//! their parents.
//!
//! A process belongs to a script when one of these holds:
//!
//! * it descends from the script;
//! * it is in the script's process group;
//! * it has the marker of the attempt in its environment;
//! * it has no marker at all, and is an orphan that appeared while this script was the only one in
//!   this process.

use std::{
    collections::{HashMap, HashSet},
    fs,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use kernex_proto::ids::AttemptId;
use rustix::process::{Pid, PidfdFlags, Signal};

use super::{process::Process, reap};

/// How often killing is repeated; only a process stuck in the kernel survives that.
const ROUNDS: u32 = 500;
const PAUSE: Duration = Duration::from_millis(10);

/// The environment entries that mark an attempt's processes.
#[derive(Debug, Clone)]
pub(crate) struct Marker([Vec<u8>; 2]);

impl Marker {
    pub(crate) fn new(id: AttemptId) -> Self {
        Self([
            format!("KERNEX_TARGET_ID={}", id.target).into_bytes(),
            format!("KERNEX_ATTEMPT={}", id.number).into_bytes(),
        ])
    }

    fn read(&self, pid: i32) -> Mark {
        let Ok(environ) = fs::read(format!("/proc/{pid}/environ")) else {
            return Mark::None;
        };
        self.judge(&environ)
    }

    fn judge(&self, environ: &[u8]) -> Mark {
        let has = |wanted: &[u8]| {
            environ
                .split(|byte| *byte == 0)
                .any(|entry| entry == wanted)
        };
        if self.0.iter().all(|entry| has(entry)) {
            Mark::Ours
        } else if environ
            .split(|byte| *byte == 0)
            .any(|entry| entry.starts_with(b"KERNEX_TARGET_ID="))
        {
            Mark::Others
        } else {
            Mark::None
        }
    }
}

/// Whose marker a process has in its environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Ours,
    Others,
    None,
}

/// The process of a script.
#[derive(Debug, Clone, Copy)]
pub(super) struct Root {
    pub(super) pid: i32,
    pub(super) start_ticks: u64,
}

impl Root {
    /// A process that was just started; it is not reaped yet, so `/proc` shows it.
    pub(super) fn of(pid: i32) -> Self {
        Self {
            pid,
            start_ticks: Process::read(pid).map_or(0, |process| process.start_ticks),
        }
    }
}

static RUNNING: AtomicU64 = AtomicU64::new(0);
static STARTED: AtomicU64 = AtomicU64::new(0);

/// Knows whether a script is the only one that runs in this process. Orphans become children of the
/// process and not of one of its agents, so the counters are global.
#[derive(Debug)]
pub(super) struct OnlyScript {
    alone: bool,
    number: u64,
}

impl OnlyScript {
    pub(super) fn begin() -> Self {
        let alone = RUNNING.fetch_add(1, Ordering::SeqCst) == 0;
        let number = STARTED.fetch_add(1, Ordering::SeqCst) + 1;
        Self { alone, number }
    }

    /// Whether no other script has run since `begin`.
    pub(super) fn is_alone(&self) -> bool {
        self.alone && STARTED.load(Ordering::SeqCst) == self.number
    }
}

impl Drop for OnlyScript {
    fn drop(&mut self) {
        RUNNING.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The processes of a script, from a process table. `alone`: no other script runs under `me`.
fn members_of(
    table: &[Process],
    root: Root,
    me: Process,
    alone: bool,
    mark: impl Fn(i32) -> Mark,
) -> Vec<Process> {
    let start_of: HashMap<i32, u64> = table.iter().map(|p| (p.pid, p.start_ticks)).collect();
    let root_alive = start_of.get(&root.pid) == Some(&root.start_ticks);
    let mut members = HashSet::new();
    for process in table {
        if process.pid == me.pid || process.pid == 1 || process.start_ticks < root.start_ticks {
            continue;
        }
        let is_root = root_alive && process.pid == root.pid;
        let in_group = process.group == root.pid && process.session == me.session;
        // A session leader older than the script belongs to a daemon of an earlier script.
        let orphan = process.parent == me.pid
            && process.is_orphan(&me)
            && start_of
                .get(&process.session)
                .is_none_or(|start| *start >= root.start_ticks);
        let marked = || match mark(process.pid) {
            Mark::Ours => true,
            Mark::Others => false,
            Mark::None => alone && orphan,
        };
        if is_root || in_group || marked() {
            members.insert(process.pid);
        }
    }
    // Children of members are members, however deep.
    loop {
        let before = members.len();
        for process in table {
            if members.contains(&process.parent) && process.pid != me.pid {
                members.insert(process.pid);
            }
        }
        if members.len() == before {
            break;
        }
    }
    table
        .iter()
        .filter(|process| members.contains(&process.pid))
        .copied()
        .collect()
}

/// SIGTERM to the group of a script.
pub(super) fn terminate_group(root: Root) {
    if let Some(pid) = Pid::from_raw(root.pid) {
        let _ = rustix::process::kill_process_group(pid, Signal::TERM);
    }
}

/// SIGKILL to all processes of a script, repeated until none is left.
pub(super) async fn kill_tree(root: Root, marker: Marker, alone: bool) {
    for _ in 0..ROUNDS {
        let marker = marker.clone();
        let left = tokio::task::spawn_blocking(move || kill_round(root, &marker, alone)).await;
        if matches!(left, Ok(0)) {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
    tracing::error!(pid = root.pid, "processes of a script survive SIGKILL");
}

/// Kills the processes of a script that was interrupted before this agent started. `pid` is 0 when
/// the journal does not know it.
pub(crate) async fn kill_interrupted(pid: i32, start_ticks: u64, marker: Marker) {
    // Follow the root only if it is still the same process; marked processes are found either way.
    let same = Process::read(pid).is_some_and(|p| pid > 1 && p.start_ticks == start_ticks);
    let root = Root {
        pid: if same { pid } else { -1 },
        start_ticks: if same { start_ticks } else { 0 },
    };
    kill_tree(root, marker, false).await;
}

fn kill_round(root: Root, marker: &Marker, alone: bool) -> usize {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let Some(me) = Process::read(own) else {
        return 0;
    };
    reap::reap_orphans();
    let members = members_of(&Process::all(), root, me, alone, |pid| marker.read(pid));
    let alive = members.iter().filter(|process| !process.zombie);
    alive.inspect(|process| kill(process)).count()
}

fn kill(process: &Process) {
    let Some(pid) = Pid::from_raw(process.pid) else {
        return;
    };
    match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) => {
            // The descriptor pins the process that has the id now; the start time says whether it
            // is the right one.
            if Process::read(process.pid).map(|now| now.start_ticks) == Some(process.start_ticks) {
                let _ = rustix::process::pidfd_send_signal(fd, Signal::KILL);
            }
        }
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
        Err(_) => {}
    }
}

#[cfg(test)]
#[path = "process_tree_tests.rs"]
mod tests;
