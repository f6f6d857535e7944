//! The machine: which core is whose, what a process used, and what the figures were taken on.

use std::{fs, path::Path, process::Command, time::Duration};

use rustix::{
    param::clock_ticks_per_second,
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};
use serde_json::{Value, json};

/// Cores of the server and of the load; the same where there is only one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cores {
    server: usize,
    load: usize,
}

impl Cores {
    /// The first and the last this process may use.
    pub(crate) fn pick() -> Self {
        let allowed = sched_getaffinity(None).ok();
        let cores: Vec<usize> = (0..CpuSet::MAX_CPU)
            .filter(|&core| allowed.as_ref().is_some_and(|set| set.is_set(core)))
            .collect();
        Self {
            server: cores.first().copied().unwrap_or(0),
            load: cores.last().copied().unwrap_or(0),
        }
    }

    pub(crate) fn apart(self) -> bool {
        self.server != self.load
    }

    /// Where servers run.
    pub(crate) fn server(self) -> Option<usize> {
        Some(self.server)
    }

    /// Moves this thread, and those it starts from now on, to the load's core.
    pub(crate) fn pin_load(self) {
        let mut only = CpuSet::new();
        only.set(self.load);
        // Without the right to do this server and load share a core.
        let _ = sched_setaffinity(None, &only);
    }
}

/// What a process has used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage(u32);

impl Usage {
    pub(crate) fn of(pid: u32) -> Self {
        Self(pid)
    }

    /// Processor time so far, in user and kernel.
    pub(crate) fn cpu(self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0)).unwrap_or_default();
        // The name may hold anything, but no closing bracket follows its own.
        let after = stat.rsplit(')').next().unwrap_or_default();
        let mut fields = after.split_whitespace().skip(11);
        let mut ticks = || fields.next().and_then(|field| field.parse::<u64>().ok());
        let (user, system) = (ticks().unwrap_or(0), ticks().unwrap_or(0));
        Duration::from_secs_f64((user + system) as f64 / clock_ticks_per_second() as f64)
    }

    /// Anonymous resident memory in bytes: what it holds for itself, without files.
    pub(crate) fn memory(self) -> u64 {
        self.rollup("Anonymous:")
    }

    /// Resident memory in bytes, the pages of its program among it.
    pub(crate) fn resident(self) -> u64 {
        self.rollup("Rss:")
    }

    fn rollup(self, field: &str) -> u64 {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.0));
        let rollup = rollup.unwrap_or_default();
        let line = rollup.lines().find_map(|line| line.strip_prefix(field));
        let kib = line.and_then(|rest| rest.split_whitespace().next());
        kib.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
    }
}

/// What the figures were taken on.
pub(crate) fn describe(cores: Cores, room: usize) -> Value {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory.lines().next().unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    json!({
        "cpu": cpu.map_or("unknown", |(_, name)| name),
        "cores": std::thread::available_parallelism().map_or(1, usize::from),
        "server_and_load_on_cores_of_their_own": cores.apart(),
        "memory": memory.trim_start_matches("MemTotal:").trim(),
        "kernel": kernel.trim(),
        "load_before": load.split_whitespace().next().unwrap_or_default(),
        "descriptors_per_process": room,
        "rustc": said("rustc", "--version"),
        "kernex": env!("CARGO_PKG_VERSION"),
        "nginx": said("nginx", "-v"),
    })
}

fn said(program: &str, flag: &str) -> String {
    let output = Command::new(program).arg(flag).output();
    output.map_or_else(
        |_| "not installed".into(),
        |output| {
            let text = [output.stdout, output.stderr].concat();
            String::from_utf8_lossy(&text).trim().to_owned()
        },
    )
}

/// Bytes in a file, 0 when there is none.
pub(crate) fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |file| file.len())
}
