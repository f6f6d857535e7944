//! How the agent is, for a person at the machine. The running agent notes its session in a file
//! whenever that changes, and `kernex-agent status` reads the file. The running agent has locked
//! the journal, so the journal is not asked.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use kernex_proto::{error::chain, units};
use serde::{Deserialize, Serialize};

use crate::{
    bundle::{BundleDir, activate},
    clock,
    config::{Config, state_dir_flag},
    host::disk_space,
    identity::{self, Identity},
    removal::Remover,
};

/// The file, in the state folder.
const FILE: &str = "session.json";
/// The file that replaces it.
const NEXT: &str = "session.json.next";

/// The session of a running agent, as it notes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SessionNote {
    process: u32,
    /// When the process began, as the kernel counts it; another process may get the same number.
    began: String,
    /// The boot that `at_ms` counts from.
    boot: String,
    /// When this was noted, since the boot.
    at_ms: u64,
    server: String,
    /// Number of the session; none while there is no session.
    session: Option<u64>,
    /// Why there is none.
    error: String,
    /// What to do about it, where trying again cannot help; older agents noted none.
    #[serde(default)]
    next: String,
    /// After how long it is tried again.
    wait_ms: u64,
}

/// What a note is about.
pub(crate) enum Noted<'a> {
    /// A session is open.
    Open(u64),
    /// There is none.
    Closed {
        error: &'a str,
        /// What to do about it, where trying again cannot help.
        next: Option<String>,
        wait: Duration,
    },
}

/// Notes how the session is. Nothing depends on it, so a disk that takes nothing is no error.
pub(crate) fn note(state_dir: &Path, server: &str, what: &Noted<'_>) {
    let (session, error, next, wait) = match what {
        Noted::Open(session) => (Some(*session), "", None, Duration::ZERO),
        Noted::Closed { error, next, wait } => (None, *error, next.clone(), *wait),
    };
    let process = std::process::id();
    let note = SessionNote {
        process,
        began: began(process).unwrap_or_default(),
        boot: clock::boot_id(),
        at_ms: millis(clock::since_boot()),
        server: server.to_owned(),
        session,
        error: error.to_owned(),
        next: next.unwrap_or_default(),
        wait_ms: millis(wait),
    };
    if let Err(error) = write(state_dir, &note) {
        tracing::debug!(%error, "cannot note how the session is");
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Readers see the old file or the new one. It needs no sync: it tells nothing after a crash.
fn write(state_dir: &Path, note: &SessionNote) -> io::Result<()> {
    let next = state_dir.join(NEXT);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&next)?;
    file.write_all(&serde_json::to_vec(note)?)?;
    fs::rename(&next, state_dir.join(FILE))
}

/// When a process began, in ticks since the boot; none when there is no such process.
fn began(process: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name of the program is in parentheses and may hold blanks. The 22nd field is the start.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(19).map(str::to_owned)
}

impl SessionNote {
    fn read(state_dir: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(state_dir.join(FILE)).ok()?).ok()
    }

    /// Whether the agent that wrote it runs.
    fn lives(&self) -> bool {
        self.boot == clock::boot_id() && began(self.process).is_some_and(|it| it == self.began)
    }

    /// Seconds since it was noted.
    fn age(&self) -> u64 {
        millis(clock::since_boot()).saturating_sub(self.at_ms) / 1000
    }
}

/// How an agent is, as it is printed.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Status {
    device: Option<String>,
    name: Option<String>,
    server: Option<String>,
    running: bool,
    process: Option<u32>,
    connected: bool,
    session: Option<u64>,
    /// Seconds since the session began, or since it was tried last.
    since_seconds: Option<u64>,
    error: String,
    /// What to do about the error, where trying again cannot help.
    next: String,
    /// What is wrong with the key or with what enrolment wrote. An agent that runs has read both,
    /// and goes on until it stops.
    identity_fault: Option<String>,
    releases: Vec<Release>,
    disk_free_bytes: Option<u64>,
    #[serde(skip)]
    state_dir: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Release {
    name: String,
    version: String,
    digest: String,
}

/// Reads the state folder; the agent may run or not.
pub(crate) fn read_status(config: &Config) -> Result<Status, crate::IdentityError> {
    let identity = Identity::load(&config.state_dir)?;
    let note = SessionNote::read(&config.state_dir).filter(SessionNote::lives);
    let noted = note.as_ref();
    Ok(Status {
        device: identity.as_ref().map(|it| it.device.to_string()),
        name: identity.as_ref().map(|it| it.name.clone()),
        server: noted
            .map(|note| note.server.clone())
            .or_else(|| config.servers.first().cloned())
            .or_else(|| identity.map(|it| it.server)),
        running: noted.is_some(),
        process: noted.map(|note| note.process),
        connected: noted.is_some_and(|note| note.session.is_some()),
        session: noted.and_then(|note| note.session),
        since_seconds: noted.map(SessionNote::age),
        error: noted.map(|note| note.error.clone()).unwrap_or_default(),
        next: noted.map(|note| note.next.clone()).unwrap_or_default(),
        identity_fault: identity::check(&config.state_dir)
            .err()
            .map(|fault| chain(&fault)),
        releases: releases(&config.state_dir),
        disk_free_bytes: disk_space(&config.state_dir).ok().map(|space| space.free),
        state_dir: config.state_dir.clone(),
    })
}

/// What `current` names under each bundle name.
fn releases(state_dir: &Path) -> Vec<Release> {
    let remover = Remover::new(state_dir);
    let mut found: Vec<Release> = BundleDir::seen(&remover)
        .iter()
        .filter_map(|bundle| {
            let folder = activate::current(bundle).ok()??;
            let metadata = bundle.metadata(&folder).unwrap_or_default();
            Some(Release {
                name: bundle.name().to_owned(),
                version: metadata.version,
                digest: metadata.digest,
            })
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

impl Status {
    /// Whether the device is enrolled, and its agent runs, is connected and could start again.
    pub(crate) const fn is_well(&self) -> bool {
        self.device.is_some() && self.running && self.connected && self.identity_fault.is_none()
    }

    /// What keeps an agent from starting here.
    pub(crate) fn identity_fault(&self) -> Option<&str> {
        self.identity_fault.as_deref()
    }

    /// What to do about a session that trying again does not open.
    pub(crate) fn next(&self) -> Option<&str> {
        Some(self.next.as_str()).filter(|next| !next.is_empty())
    }

    /// Whether an agent runs here, as far as it noted it.
    pub(crate) const fn is_running(&self) -> bool {
        self.running
    }

    /// How the session is, and whether there is one.
    pub(crate) fn session(&self) -> (String, bool) {
        let since = self.since_seconds.unwrap_or(0);
        match self.session {
            Some(session) => (format!("number {session}, open for {since} s"), true),
            None if self.running => {
                let error = &self.error;
                (format!("none; last tried {since} s ago: {error}"), false)
            }
            None => (
                "none: the agent does not run, or had none so far".to_owned(),
                false,
            ),
        }
    }

    /// The process of the agent that runs.
    pub(crate) const fn process(&self) -> Option<u32> {
        self.process
    }

    /// As lines for people.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut line = |title: &str, text: String| lines.push(format!("{title:<9}{text}"));
        match (&self.name, &self.device) {
            (Some(name), Some(device)) => line("Device:", format!("{name} ({device})")),
            _ => line(
                "Device:",
                format!(
                    "not enrolled; run `kernex-agent enroll --server URL --token-file FILE{}`",
                    state_dir_flag(&self.state_dir)
                ),
            ),
        }
        if let Some(fault) = &self.identity_fault {
            line("Fault:", fault.clone());
        }
        if let Some(server) = &self.server {
            line("Server:", server.clone());
        }
        match self.process {
            Some(process) => line("Agent:", format!("running, process {process}")),
            None => line(
                "Agent:",
                "not running, or without a session so far".to_owned(),
            ),
        }
        if self.running {
            line("Session:", self.session().0);
        }
        if let Some(next) = self.next() {
            line("Next:", next.to_owned());
        }
        for release in &self.releases {
            let digest = release.digest.get(..12).unwrap_or("unknown");
            line(
                "Runs:",
                format!("{}:{} ({digest})", release.name, release.version),
            );
        }
        if let Some(free) = self.disk_free_bytes {
            line("Disk:", format!("{} free", units::bytes(free)));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_of_a_process_that_lives() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(SessionNote::read(dir.path()), None);
        note(dir.path(), "https://h", &Noted::Open(7));
        let open = SessionNote::read(dir.path()).unwrap();
        assert!(open.lives());
        assert_eq!((open.session, open.server.as_str()), (Some(7), "https://h"));
        let closed = Noted::Closed {
            error: "no connection",
            next: Some("Wait.".to_owned()),
            wait: Duration::from_secs(3),
        };
        note(dir.path(), "https://h", &closed);
        let closed = SessionNote::read(dir.path()).unwrap();
        assert_eq!((closed.session, closed.wait_ms), (None, 3_000));
        assert_eq!(closed.next, "Wait.");
        // The same number, and another process.
        let other = SessionNote {
            began: "1".into(),
            ..closed.clone()
        };
        assert!(!other.lives());
        let rebooted = SessionNote {
            boot: "another".into(),
            ..closed
        };
        assert!(!rebooted.lives());
    }

    #[test]
    fn a_machine_that_is_not_enrolled_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let status = read_status(&Config::new(dir.path())).unwrap();
        assert!(!status.is_well());
        let lines = status.lines().join("\n");
        assert!(lines.contains("not enrolled"), "{lines}");
        let folder = format!("--state-dir {}", dir.path().display());
        assert!(lines.contains(&folder), "{lines}");
        assert!(lines.contains("not running"), "{lines}");
    }
}
