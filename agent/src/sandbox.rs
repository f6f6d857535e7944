//! How a script runs: environment, process group, limit of output, deadline, and no process left
//! behind.
//!
//! The agent is the subreaper of its descendants: a process that loses its parent becomes a child
//! of the agent and cannot hide. When a script must end, all its descendants are killed. A script
//! that exits 0 may leave daemons running; the output pipe they inherited is neither waited for nor
//! closed.

use std::{
    io,
    os::{fd::RawFd, unix::process::CommandExt as _},
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::{
    io::AsyncReadExt as _,
    process::{Child, Command},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::clock;

pub(crate) mod account;
pub(crate) mod environment;
mod interpreter;
mod output;
mod pipes;
mod process;
mod process_tree;
mod reap;
mod strays;

pub(crate) use output::Output;
use pipes::Pipes;
pub(crate) use process_tree::{Marker, kill_interrupted};
use process_tree::{OnlyScript, Root};
pub(crate) use reap::Reaper;
pub(crate) use strays::running_scripts;

/// What runs every script.
const SHELL: &str = "/bin/sh";

/// Runs scripts, and drains the pipes that survivors hold.
#[derive(Debug, Clone)]
pub(crate) struct Sandbox {
    tasks: TaskTracker,
    closing: CancellationToken,
}

pub(crate) struct Script<'a> {
    /// A shell command, or a file in `dir`.
    pub(crate) script: &'a str,
    pub(crate) dir: &'a Path,
    /// All of its environment.
    pub(crate) env: Vec<(String, String)>,
    pub(crate) marker: Marker,
    /// Time between SIGTERM and SIGKILL at the deadline.
    pub(crate) grace: Duration,
    /// Another exit code after which descendants may live on, as after 0.
    pub(crate) spares: Option<i32>,
    /// Whether it, and what it starts, may get rights that the agent has not got.
    pub(crate) new_privs: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScriptEnd {
    Exited(i32),
    /// By a signal that the agent did not send.
    Signalled(i32),
    TimedOut,
    /// Killed because the caller interrupted it.
    Interrupted,
}

pub(crate) struct RunningScript<'a> {
    sandbox: &'a Sandbox,
    child: Child,
    pipes: Pipes,
    root: Root,
    only_script: OnlyScript,
    marker: Marker,
    grace: Duration,
    spares: Option<i32>,
}

impl Sandbox {
    /// Makes this process the subreaper of its descendants.
    pub(crate) fn new(tasks: TaskTracker, closing: CancellationToken) -> Self {
        if let Err(error) = rustix::process::set_child_subreaper(Some(rustix::process::getpid())) {
            tracing::warn!(%error, "cannot become subreaper; a daemonised process may escape its deadline");
        }
        Self { tasks, closing }
    }

    pub(crate) fn start(&self, script: Script<'_>) -> io::Result<RunningScript<'_>> {
        let (out_reader, out_writer) = io::pipe()?;
        let (err_reader, err_writer) = io::pipe()?;
        let (linkers, env): (Vec<_>, Vec<_>) = script
            .env
            .into_iter()
            .partition(|(name, _)| is_linkers(name));
        let mut command = shell(script.dir, script.script, &linkers);
        command
            .current_dir(script.dir)
            .env_clear()
            .envs(env)
            .stdin(Stdio::null())
            .stdout(out_writer)
            .stderr(err_writer)
            .process_group(0);
        confine(&mut command, script.new_privs);
        let only_script = OnlyScript::begin();
        let child = Command::from(command).spawn()?;
        let pid = child
            .id()
            .and_then(|pid| i32::try_from(pid).ok())
            .ok_or_else(|| io::Error::other("the script has no process id"))?;
        Ok(RunningScript {
            sandbox: self,
            pipes: Pipes::new(out_reader, err_reader)?,
            root: Root::of(pid),
            child,
            only_script,
            marker: script.marker,
            grace: script.grace,
            spares: script.spares,
        })
    }
}

impl RunningScript<'_> {
    pub(crate) fn pid(&self) -> i32 {
        self.root.pid
    }

    /// Start time of the script in clock ticks since boot.
    pub(crate) fn start_ticks(&self) -> u64 {
        self.root.start_ticks
    }

    /// Waits for the end of the script. It is killed at `deadline` (boot clock), and when
    /// `interrupted` resolves, which says how long it may tidy up.
    pub(crate) async fn wait(
        mut self,
        output: &mut Output,
        deadline: Duration,
        interrupted: impl Future<Output = Duration>,
    ) -> io::Result<ScriptEnd> {
        let mut buffer = vec![0; 16 * 1024];
        tokio::pin!(interrupted);
        let ended = loop {
            tokio::select! {
                status = self.child.wait() => break script_end(status?),
                (stream, read) = self.pipes.read_some(&mut buffer) => output.push(stream, &buffer[..read]),
                () = clock::sleep_until(deadline) => break ScriptEnd::TimedOut,
                grace = &mut interrupted => {
                    self.grace = grace;
                    break ScriptEnd::Interrupted;
                }
            }
        };
        if matches!(ended, ScriptEnd::TimedOut | ScriptEnd::Interrupted) {
            self.ask_to_end(output, &mut buffer).await;
        }
        let spared =
            matches!(ended, ScriptEnd::Exited(code) if code == 0 || Some(code) == self.spares);
        if !spared {
            process_tree::kill_tree(self.root, self.marker.clone(), self.only_script.is_alone())
                .await;
            // The leader of a killed group still has to be reaped.
            self.child.wait().await?;
        }
        self.drain(output, &mut buffer);
        Ok(ended)
    }

    /// SIGTERM to the group, then time to tidy up.
    async fn ask_to_end(&mut self, output: &mut Output, buffer: &mut [u8]) {
        process_tree::terminate_group(self.root);
        let end = clock::since_boot() + self.grace;
        loop {
            tokio::select! {
                _ = self.child.wait() => break,
                (stream, read) = self.pipes.read_some(buffer) => output.push(stream, &buffer[..read]),
                () = clock::sleep_until(end) => break,
            }
        }
    }

    /// Reads what is in the pipes now. While a survivor holds the other end, a task reads on and
    /// throws the output away: closing the pipe would kill a daemon at its next line of output.
    fn drain(&mut self, output: &mut Output, buffer: &mut [u8]) {
        for (stream, mut pipe) in self.pipes.take_open(output, buffer) {
            let closing = self.sandbox.closing.clone();
            tracing::trace!(?stream, "a survivor holds a pipe of its script");
            self.sandbox.tasks.spawn(async move {
                let mut sink = [0; 1024];
                loop {
                    tokio::select! {
                        read = pipe.read(&mut sink) => if !matches!(read, Ok(1..)) { return },
                        () = closing.cancelled() => return,
                    }
                }
            });
        }
    }
}

fn script_end(status: ExitStatus) -> ScriptEnd {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => ScriptEnd::Exited(code),
        (None, signal) => ScriptEnd::Signalled(signal.unwrap_or(0)),
    }
}

/// The shell that runs a script. Its path is given in full, because a manifest's `PATH` is only for
/// what the script calls. The same holds for variables of the dynamic linker: the shell starts
/// without them, and exports them before it runs the script.
fn shell(dir: &Path, script: &str, linkers: &[(String, String)]) -> std::process::Command {
    let file = Path::new(script.trim());
    let is_file = is_file_inside(dir, file);
    // The shell execs an executable file, so that `#!` lines and programs work as well. Archives
    // that were made on Windows have no such bit, so the line counts without it too.
    let (what, how) = match is_file {
        true if is_executable(&dir.join(file)) => {
            (Path::new(".").join(file), "exec \"$0\"".to_owned())
        }
        true => (
            Path::new(".").join(file),
            format!("exec {} \"$0\"", interpreter::of(&dir.join(file))),
        ),
        false => (script.into(), "exec /bin/sh -c \"$0\"".to_owned()),
    };
    let mut command = std::process::Command::new(SHELL);
    if linkers.is_empty() && !is_file {
        command.arg("-c").arg(what);
    } else {
        let set = "for set; do export \"$set\"; done; set --; ";
        command.arg("-c").arg(format!("{set}{how}")).arg(what);
        command.args(
            linkers
                .iter()
                .map(|(name, value)| format!("{name}={value}")),
        );
    }
    command
}

/// Whether a variable changes how the dynamic linker starts a program. Names with other characters
/// mean nothing to it, and no shell could export them.
fn is_linkers(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (name.starts_with("LD_") || name == "GLIBC_TUNABLES") && name.bytes().all(plain)
}

/// Whether the script is a file of the bundle and not a command. A symbolic link that leads out of
/// the bundle is not followed here; the shell may follow it.
fn is_file_inside(dir: &Path, file: &Path) -> bool {
    let stays = file.components().all(|part| {
        matches!(
            part,
            std::path::Component::Normal(_) | std::path::Component::CurDir
        )
    });
    if !stays || file.as_os_str().is_empty() {
        return false;
    }
    match (dir.canonicalize(), dir.join(file).canonicalize()) {
        (Ok(dir), Ok(file)) => file.starts_with(dir) && file.is_file(),
        _ => false,
    }
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata()
        .is_ok_and(|meta| meta.permissions().mode() & 0o111 != 0)
}

/// No new privileges unless they are allowed, and no descriptors of the agent's own parent.
#[expect(
    unsafe_code,
    reason = "between fork and exec only system calls are made: two prctl-like calls on memory taken before the fork"
)]
fn confine(command: &mut std::process::Command, new_privs: bool) {
    let open: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd > 2)
        .collect();
    // SAFETY: the closure allocates nothing and takes no lock; the descriptors are only marked,
    // never closed or owned, and one that is not open any more gives an error that is ignored.
    unsafe {
        command.pre_exec(move || {
            if !new_privs {
                rustix::thread::set_no_new_privs(true)?;
            }
            for fd in &open {
                let fd = std::os::fd::BorrowedFd::borrow_raw(*fd);
                let _ = rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC);
            }
            Ok(())
        });
    }
}

#[cfg(test)]
#[path = "sandbox/tests.rs"]
mod tests;
