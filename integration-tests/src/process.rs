//! A program under test: its output is kept, it is told to stop when dropped, and it has to stop
//! well.

use std::{
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use rustix::{
    process::{Pid, Signal, kill_process},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};

/// A stop that takes longer than this is a failure of its own.
const STOP_LIMIT: Duration = Duration::from_secs(40);

/// A program that has just started may not handle SIGTERM yet, and would die of it. On a busy
/// machine that takes seconds.
const YOUNG: Duration = Duration::from_secs(20);

const LINES_SHOWN: usize = 150;

/// One running program.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: Pid,
    // The mutex lets several threads look at one program.
    exit: Mutex<Receiver<ExitStatus>>,
    exited: Option<ExitStatus>,
    log: PathBuf,
    started: Instant,
}

impl Process {
    /// Starts `command`; both of its outputs go to the file `log`, which is continued if it exists.
    ///
    /// # Panics
    /// When the program cannot be started.
    pub fn spawn(name: &str, mut command: Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log);
        let file = file.expect("the log can be opened");
        let errors = file.try_clone().expect("a file handle can be cloned");
        let mut child = command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(errors)
            // A process group of its own: Ctrl-C on the test run must not reach it before the test
            // is done.
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        let pid = Pid::from_child(&child);
        let (sender, exit) = channel();
        thread::spawn(move || {
            if let Ok(status) = child.wait() {
                let _ = sender.send(status);
            }
        });
        Self {
            name: name.to_owned(),
            pid,
            exit: Mutex::new(exit),
            exited: None,
            log: log.to_owned(),
            started: Instant::now(),
        }
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// KiB of memory it has at this moment.
    ///
    /// # Panics
    /// When it is gone.
    #[must_use]
    pub fn memory_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let status = status.expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        kib.expect("a process has memory")
    }

    /// Files below `folder` that it holds open.
    #[must_use]
    pub fn open_below(&self, folder: &Path) -> Vec<PathBuf> {
        let open = fs::read_dir(format!("/proc/{}/fd", self.pid()));
        let targets = open.into_iter().flatten().flatten();
        targets
            .filter_map(|entry| fs::read_link(entry.path()).ok())
            .filter(|target| target.starts_with(folder))
            .collect()
    }

    /// Everything the program has said.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Bytes the program has said so far.
    #[must_use]
    pub fn said(&self) -> u64 {
        fs::metadata(&self.log).map_or(0, |meta| meta.len())
    }

    /// Whether it has said `words` since it had said that many bytes.
    #[must_use]
    pub fn has_said(&self, words: &str, since: u64) -> bool {
        let read = || {
            let mut text = Vec::new();
            let mut log = File::open(&self.log)?;
            log.seek(SeekFrom::Start(since))?;
            log.read_to_end(&mut text)?;
            Ok::<_, std::io::Error>(text)
        };
        read().is_ok_and(|text| String::from_utf8_lossy(&text).contains(words))
    }

    /// How it ended, if it has.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        if self.exited.is_none() {
            self.exited = self.ended().try_recv().ok();
        }
        self.exited
    }

    /// Sends SIGTERM and waits; the program has to exit with code 0.
    ///
    /// # Panics
    /// When it does not stop, or not well.
    pub fn stop(&mut self) {
        let status = self.stop_within(STOP_LIMIT);
        let status = status.unwrap_or_else(|| {
            self.kill();
            panic!(
                "{} did not stop within {STOP_LIMIT:?}\n{}",
                self.name,
                self.tail()
            )
        });
        let too_young =
            self.started.elapsed() < YOUNG && status.signal() == Some(Signal::TERM.as_raw());
        assert!(
            status.success() || too_young,
            "{} ended with {status} (signal {:?})\n{}",
            self.name,
            status.signal(),
            self.tail()
        );
    }

    /// Sends SIGKILL and waits: a power cut.
    pub fn kill(&mut self) {
        if self.exited().is_none() {
            let _ = kill_process(self.pid, Signal::KILL);
            self.exited = self.ended().recv().ok();
        }
    }

    /// Sends a signal, if it still runs.
    pub fn signal(&mut self, signal: Signal) {
        if self.exited().is_none() {
            let _ = kill_process(self.pid, signal);
        }
    }

    /// Waits for the program to end by itself.
    pub fn wait_within(&mut self, limit: Duration) -> Option<ExitStatus> {
        if self.exited.is_none() {
            self.exited = self.ended().recv_timeout(limit).ok();
        }
        self.exited
    }

    /// The most memory the program ever held, in bytes.
    ///
    /// # Panics
    /// When it does not run any more.
    #[must_use]
    pub fn peak_memory(&self) -> u64 {
        self.status_field("VmHWM:") * 1024
    }

    fn status_field(&self, field: &str) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let text = text.unwrap_or_else(|error| panic!("{} does not run: {error}", self.name));
        let line = text.lines().find_map(|line| line.strip_prefix(field));
        let number = line.and_then(|rest| rest.split_whitespace().next());
        number
            .and_then(|number| number.parse().ok())
            .unwrap_or_else(|| panic!("no {field} in /proc"))
    }

    /// The end of what the program said.
    #[must_use]
    pub fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let from = lines.len().saturating_sub(LINES_SHOWN);
        format!("--- {} said ---\n{}", self.name, lines[from..].join("\n"))
    }

    fn ended(&mut self) -> &mut Receiver<ExitStatus> {
        self.exit.get_mut()
    }

    fn stop_within(&mut self, limit: Duration) -> Option<ExitStatus> {
        self.signal(Signal::TERM);
        self.wait_within(limit)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.tail());
            self.kill();
        } else if self.exited().is_none() {
            self.stop();
        }
    }
}

/// Runs `start` with this thread on one core, which the processes it starts inherit; without a core
/// as it is.
pub fn on_core<T>(core: Option<usize>, start: impl FnOnce() -> T) -> T {
    let before = sched_getaffinity(None).ok();
    if let Some(core) = core {
        let mut only = CpuSet::new();
        only.set(core);
        // Without the right to do this everything shares the cores, which only makes figures worse.
        let _ = sched_setaffinity(None, &only);
    }
    let started = start();
    if let (Some(_), Some(before)) = (core, before) {
        let _ = sched_setaffinity(None, &before);
    }
    started
}

/// Ids of running processes whose command line contains `marker`: what a script left behind.
#[must_use]
pub fn processes_with(marker: &str) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != std::process::id())
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line)
                .replace('\0', " ")
                .contains(marker)
        })
        .collect()
}
