//! One real `kernex-agent` with a state folder of its own.

use std::{
    fs,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Output},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    binaries, keys,
    process::Process,
    proxy::Proxy,
    server::{TestServer, clear_settings},
};

/// Most time for a device to enrol, in as many tries as that takes. The agent gives up each of them
/// after seconds, which is less than a busy machine may need.
const ENROL_LIMIT: Duration = Duration::from_secs(240);

/// Pause between two tries.
const BETWEEN_TRIES: Duration = Duration::from_millis(200);

/// Settings of an agent under test. The default is an agent with its own pool key, straight to its
/// server.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    name: String,
    labels: Vec<(String, String)>,
    url: Option<String>,
    env: Vec<(String, String)>,
    wrapper: Vec<String>,
    state: Option<PathBuf>,
}

impl AgentOptions {
    /// An agent of this name, as plain as can be.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            labels: Vec::new(),
            url: None,
            env: Vec::new(),
            wrapper: Vec::new(),
            state: None,
        }
    }

    /// Keeps its state in this folder, for instance on a disk of its own. Its log stays where it
    /// is.
    #[must_use]
    pub fn state(mut self, folder: PathBuf) -> Self {
        self.state = Some(folder);
        self
    }

    /// Comes with a label, through its enrolment token.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Reaches the server through a proxy.
    #[must_use]
    pub fn through(mut self, proxy: &Proxy) -> Self {
        self.url = Some(proxy.url());
        self
    }

    /// Where it finds the server: at the proxy it goes through, else at `url`.
    #[must_use]
    pub fn url_or(&self, url: &str) -> String {
        self.url.clone().unwrap_or_else(|| url.to_owned())
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// Runs the agent under another program, given as the words before it.
    #[must_use]
    pub fn under(mut self, words: &[&str]) -> Self {
        self.wrapper = words.iter().map(|&word| word.to_owned()).collect();
        self
    }
}

/// A device with its agent; dropped, the agent is stopped with SIGTERM and has to end well.
#[derive(Debug)]
pub struct TestAgent {
    /// Device name.
    pub name: String,
    /// Its state folder.
    pub state: PathBuf,
    options: AgentOptions,
    log: PathBuf,
    process: Process,
}

impl TestAgent {
    /// Enrols a device with a key of the pool and starts its agent; does not wait for it to be
    /// online.
    ///
    /// # Panics
    /// When enrolling fails.
    pub async fn enrol(server: &TestServer, options: AgentOptions) -> Self {
        let operator = server.operator();
        let labels: Vec<(&str, &str)> = options
            .labels
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        let token = operator.enrollment_token(&labels).await;
        let url = options.url.clone().unwrap_or_else(|| server.url());
        Self::enrol_at(server.scratch(), &url, &token, server.new_key(), options)
    }

    /// Enrols at any address, with pool key `key`; log and state go below `folder`, unless the
    /// options say otherwise.
    ///
    /// # Panics
    /// When enrolling fails.
    #[must_use]
    pub fn enrol_at(
        folder: &Path,
        url: &str,
        token: &str,
        key: usize,
        options: AgentOptions,
    ) -> Self {
        Self::enrol_with(folder, url, token, &keys::pem(key), options)
    }

    /// The same with a key of the caller's own, as PKCS#8 PEM.
    ///
    /// # Panics
    /// When enrolling fails.
    #[must_use]
    pub fn enrol_with(
        folder: &Path,
        url: &str,
        token: &str,
        key: &str,
        options: AgentOptions,
    ) -> Self {
        let state = options.state.clone();
        let state = state.unwrap_or_else(|| folder.join("agents").join(&options.name));
        let log = folder.join(format!("agent-{}.log", options.name));
        write_key(&state, key);
        let output = enrol_within(ENROL_LIMIT, || {
            command(&options, "enroll", &state)
                .args(["--server", url, "--token", token, "--name", &options.name])
                .output()
                .expect("kernex-agent can be started")
        });
        assert!(
            output.status.success(),
            "{} does not enrol: {}",
            options.name,
            String::from_utf8_lossy(&output.stderr)
        );
        let process = Process::spawn(&options.name, command(&options, "run", &state), &log);
        Self {
            name: options.name.clone(),
            state,
            options,
            log,
            process,
        }
    }

    /// The agent's process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Number of the session that it noted last for `kernex-agent status`; none when it noted that
    /// it has none. A later session has a larger number. What a killed agent noted stays.
    #[must_use]
    pub fn session(&self) -> Option<u64> {
        let noted = fs::read(self.state.join("session.json")).ok()?;
        let noted: serde_json::Value = serde_json::from_slice(&noted).ok()?;
        noted["session"].as_u64()
    }

    /// Stops it with SIGTERM; it has to end well.
    pub fn stop(&mut self) {
        self.process.stop();
    }

    /// Kills it: a power cut.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Sends it a signal. SIGSTOP makes its machine look as if it hangs.
    pub fn signal(&mut self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Whether its process is gone.
    pub fn has_ended(&mut self) -> bool {
        self.process.exited().is_some()
    }

    /// Waits until it ends by itself, at most `limit`.
    pub fn ended_within(&mut self, limit: Duration) -> bool {
        self.process.wait_within(limit).is_some()
    }

    /// How its process ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.exited()
    }

    /// Starts it again on the same state.
    pub fn start_again(&mut self) {
        self.start_again_with(None);
    }

    /// Starts it again on the same state, this time with one more variable.
    pub fn start_again_with(&mut self, variable: Option<(&str, &str)>) {
        let mut command = command(&self.options, "run", &self.state);
        command.envs(variable);
        self.process = Process::spawn(&self.name, command, &self.log);
    }

    /// Starts it again on the same state, this time with these words more on its command line.
    pub fn start_again_saying(&mut self, words: &[&str]) {
        let mut command = command(&self.options, "run", &self.state);
        command.args(words);
        self.process = Process::spawn(&self.name, command, &self.log);
    }

    /// Starts an agent on a copy of this one's state, with a log of its own.
    #[must_use]
    pub fn start_copy(&self, state: &Path) -> Self {
        let log = state.with_extension("log");
        let process = Process::spawn(&self.name, command(&self.options, "run", state), &log);
        Self {
            name: self.name.clone(),
            state: state.to_owned(),
            options: self.options.clone(),
            log,
            process,
        }
    }

    /// Folder that `current` of this bundle name leads to, if there is one.
    #[must_use]
    pub fn current(&self, bundle: &str) -> Option<PathBuf> {
        let link = self.state.join("bundles").join(bundle).join("current");
        fs::canonicalize(link).ok()
    }

    /// A file of the current release.
    #[must_use]
    pub fn current_file(&self, bundle: &str, file: &str) -> Option<String> {
        fs::read_to_string(self.current(bundle)?.join(file)).ok()
    }

    /// Folders of unpacked releases of this bundle name.
    #[must_use]
    pub fn releases(&self, bundle: &str) -> Vec<PathBuf> {
        let folder = self.state.join("bundles").join(bundle).join("releases");
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    }

    /// Bytes of bundle files in the state folder that belong to no release: what a failed deploy
    /// left behind.
    #[must_use]
    pub fn leftovers(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.state.join("bundles")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let path = entry.path();
                let kind = entry.file_type();
                if path.file_name().is_some_and(|name| name == "releases") {
                    continue;
                }
                if kind.is_ok_and(|kind| kind.is_dir()) {
                    folders.push(path);
                } else if path.file_name().is_some_and(|name| name != "current") {
                    found.push(path);
                }
            }
        }
        found
    }
}

/// Tries until an enrolment succeeds, at most `limit`; what the last one said. A key that is bound
/// already gets its device again, so that a try whose answer was lost does no harm.
fn enrol_within(limit: Duration, mut enrol: impl FnMut() -> Output) -> Output {
    let start = Instant::now();
    loop {
        let output = enrol();
        if output.status.success() || start.elapsed() > limit {
            return output;
        }
        thread::sleep(BETWEEN_TRIES);
    }
}

/// Copies a folder with everything in it as it is.
pub fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    let status = Command::new("cp").arg("-a").args([from, to]).status()?;
    if status.success() {
        Ok(())
    } else {
        Err(std::io::Error::other(format!("cp ended with {status}")))
    }
}

/// A `kernex-agent` command with none of the caller's settings.
#[must_use]
pub fn bare_command(verb: &str) -> Command {
    let mut command = Command::new(binaries::path("kernex-agent"));
    clear_settings(&mut command);
    command.arg(verb);
    command
}

/// Puts pool key `key` where the agent would keep the one it generates.
///
/// # Panics
/// When the folder cannot be written.
pub fn place_key(state: &Path, key: usize) {
    write_key(state, &keys::pem(key));
}

fn write_key(state: &Path, pem: &str) {
    use std::io::Write as _;
    fs::create_dir_all(state).expect("the state folder can be made");
    fs::set_permissions(state, fs::Permissions::from_mode(0o700)).expect("it is ours");
    let mut options = fs::File::options();
    let file = options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = file
        .open(state.join("device.key"))
        .expect("the key can be written");
    file.write_all(pem.as_bytes())
        .expect("the key can be written");
    // As durable as the agent's own, for tests that cut the power.
    file.sync_all().expect("the key can be synced");
    for folder in [Some(state), state.parent()].into_iter().flatten() {
        let synced = fs::File::open(folder).and_then(|folder| folder.sync_all());
        synced.expect("the state folder can be synced");
    }
}

fn command(options: &AgentOptions, verb: &str, state: &Path) -> Command {
    let program = binaries::path("kernex-agent");
    // Only `run` is wrapped: tests look at what happens after enrolling.
    let mut command = match options.wrapper.split_first() {
        Some((first, rest)) if verb == "run" => {
            let mut command = Command::new(first);
            command.args(rest).arg(program);
            command
        }
        _ => Command::new(program),
    };
    clear_settings(&mut command);
    command
        .arg(verb)
        .arg("--state-dir")
        .arg(state)
        .env("KERNEX_AGENT_LOG", "info,kernex_agent=debug")
        .envs(options.env.iter().map(|(name, value)| (name, value)));
    command
}
