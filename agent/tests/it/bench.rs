//! A test bench: an agent that runs in this process, with its state folder and a fake server.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::Duration,
};

use kernex_agent::{Config, DeviceKey};
use kernex_proto::{
    handshake::EnrollmentToken,
    ids::{Digest, TargetId, TokenId},
    v1::{self, device_session_request as up, device_session_response as down},
};
use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::fake_server::{FakeServer, Session};

/// One key for all tests: making one takes seconds.
fn key_pem() -> &'static [u8] {
    static PEM: OnceLock<Vec<u8>> = OnceLock::new();
    PEM.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        DeviceKey::load_or_generate(dir.path()).unwrap();
        fs::read(dir.path().join("device.key")).unwrap()
    })
}

/// Polls a condition until it holds; panics after 30 seconds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let held = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), held).await;
    assert!(waited.is_ok(), "waited in vain until {what}");
}

/// A blocking write of a crashed agent may hold the journal a moment longer than a dead process
/// would.
async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    loop {
        match kernex_agent::run(config.clone(), shutdown.clone()).await {
            Err(err) if format!("{err:#}").contains("another kernex-agent") => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            ended => return ended,
        }
    }
}

pub(crate) struct Bench {
    pub(crate) server: FakeServer,
    dir: tempfile::TempDir,
    agent: Option<(JoinHandle<anyhow::Result<()>>, CancellationToken)>,
}

impl Bench {
    /// An enrolled, running agent.
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("state")).unwrap();
        fs::write(dir.path().join("state/device.key"), key_pem()).unwrap();
        let mut bench = Self {
            server: FakeServer::start().await,
            dir,
            agent: None,
        };
        bench.start();
        bench
    }

    pub(crate) fn start(&mut self) {
        let mut config = Config::new(self.state_dir());
        config.servers = vec![format!("http://{}", self.server.address)];
        config.script_grace = Duration::from_millis(300);
        config.token = Some(EnrollmentToken {
            id: TokenId::generate(),
            cluster: self.server.cluster,
            ca_pin: Digest([0; 32]),
            webpki: None,
            secret: [1; 32],
        });
        let shutdown = CancellationToken::new();
        let agent = TaskTracker::new().spawn(run(config, shutdown.clone()));
        self.agent = Some((agent, shutdown));
    }

    /// Stops the agent gracefully.
    pub(crate) async fn stop(&mut self) {
        self.ask_to_stop();
        self.stopped().await;
    }

    /// Begins a graceful stop.
    pub(crate) fn ask_to_stop(&self) {
        let (_, shutdown) = self.agent.as_ref().unwrap();
        shutdown.cancel();
    }

    /// Waits for the end of a graceful stop.
    pub(crate) async fn stopped(&mut self) {
        let (agent, _) = self.agent.take().unwrap();
        agent.await.unwrap().unwrap();
    }

    /// Simulates a crash: drops every task of the agent where it stands.
    pub(crate) async fn crash(&mut self) {
        let (agent, _) = self.agent.take().unwrap();
        agent.abort();
        let _ = agent.await;
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// The file that test scripts append to.
    pub(crate) fn witness(&self) -> PathBuf {
        self.dir.path().join("witness")
    }

    /// A file beside the witness.
    pub(crate) fn near(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn witnessed(&self) -> String {
        fs::read_to_string(self.witness()).unwrap_or_default()
    }

    /// Version that `current` of the bundle names, from the manifest in it.
    pub(crate) fn current(&self) -> Option<String> {
        let path = self.state_dir().join("bundles/app/current/manifest.json");
        let manifest: serde_json::Value = serde_json::from_slice(&fs::read(path).ok()?).unwrap();
        Some(manifest["version"].as_str().unwrap().to_owned())
    }

    /// Waits until `current` names this version.
    pub(crate) async fn until_current(&self, version: &str) {
        until("it is current", || {
            self.current().as_deref() == Some(version)
        })
        .await;
    }

    /// Waits until a script has written into the witness.
    pub(crate) async fn until_witnessed(&self) {
        until("a script has run", || !self.witnessed().is_empty()).await;
    }

    /// Whether `current` names this release folder.
    pub(crate) fn is_current(&self, release: &str) -> bool {
        let target = fs::read_link(self.state_dir().join("bundles/app/current")).unwrap();
        target.ends_with(release)
    }

    /// Whether a process is alive.
    pub(crate) fn lives(&self, pid: &str) -> bool {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    }

    /// Ends a process that a script left.
    pub(crate) fn end(&self, pid: &str) {
        let killed = Command::new("kill").args(["-9", pid]).status().unwrap();
        assert!(killed.success());
    }

    /// Names in a folder of the state folder.
    pub(crate) fn list(&self, dir: &str) -> Vec<String> {
        fs::read_dir(self.state_dir().join(dir))
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    /// An archive with this manifest and a file.
    pub(crate) fn archive(&self, manifest: &serde_json::Value) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("manifest.json"), manifest.to_string()).unwrap();
        fs::write(dir.path().join("payload"), vec![b'x'; 300_000]).unwrap();
        // Not compressible, so that a download has a middle to be cut in.
        let noise: Vec<u8> = (0..20_000u32)
            .flat_map(|n| Digest::of(&n.to_be_bytes()).0)
            .collect();
        fs::write(dir.path().join("noise"), noise).unwrap();
        pack(dir.path())
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Some((_, shutdown)) = &self.agent {
            shutdown.cancel();
        }
    }
}

fn pack(dir: &Path) -> Vec<u8> {
    let packed = Command::new("tar")
        .args(["czf", "-", "manifest.json", "payload", "noise"])
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(packed.status.success());
    packed.stdout
}

fn deploy_of(digest: Digest, bundle: &[u8]) -> v1::Deploy {
    v1::Deploy {
        name: "app".into(),
        version: "1.0".into(),
        digest: digest.to_string(),
        size_bytes: bundle.len() as u64,
        deployment_id: "deployment-1".into(),
        ..v1::Deploy::default()
    }
}

pub(crate) fn attempt() -> v1::AttemptRef {
    v1::AttemptRef {
        target_id: TargetId::generate().to_string(),
        attempt: 1,
    }
}

impl Session {
    pub(crate) async fn deploy(&self, attempt: &v1::AttemptRef, digest: Digest, bundle: &[u8]) {
        let deploy = deploy_of(digest, bundle);
        self.command(attempt, Some(v1::command::Action::Deploy(deploy)))
            .await;
    }

    /// Deploys with an execution time.
    pub(crate) async fn deploy_within(
        &self,
        attempt: &v1::AttemptRef,
        digest: Digest,
        bundle: &[u8],
        execution: Duration,
    ) {
        let deploy = v1::Deploy {
            execution_ms: u64::try_from(execution.as_millis()).unwrap(),
            ..deploy_of(digest, bundle)
        };
        self.command(attempt, Some(v1::command::Action::Deploy(deploy)))
            .await;
    }

    /// Grants a run of a deploy.
    pub(crate) async fn deploy_run(
        &self,
        attempt: &v1::AttemptRef,
        digest: Digest,
        bundle: &[u8],
        run: u32,
    ) {
        let command = v1::Command {
            attempt: Some(attempt.clone()),
            epoch: self.epoch,
            remaining_ms: 60_000,
            run,
            action: Some(v1::command::Action::Deploy(deploy_of(digest, bundle))),
            ..v1::Command::default()
        };
        self.send(Some(down::Message::Command(command))).await;
    }

    pub(crate) async fn stop(&self, attempt: &v1::AttemptRef) {
        self.command(
            attempt,
            Some(v1::command::Action::Stop(v1::Stop::default())),
        )
        .await;
    }

    /// Stops going back as well.
    pub(crate) async fn stop_going_back(&self, attempt: &v1::AttemptRef) {
        let stop = v1::Stop {
            going_back: true,
            overdue: false,
        };
        self.command(attempt, Some(v1::command::Action::Stop(stop)))
            .await;
    }

    pub(crate) async fn command(
        &self,
        attempt: &v1::AttemptRef,
        action: Option<v1::command::Action>,
    ) {
        let command = v1::Command {
            attempt: Some(attempt.clone()),
            epoch: self.epoch,
            remaining_ms: 60_000,
            action,
            ..v1::Command::default()
        };
        self.send(Some(down::Message::Command(command))).await;
    }

    pub(crate) async fn ack(&self, seq: u64) {
        let disposition = v1::Disposition::Applied.into();
        self.send(Some(down::Message::Ack(v1::Ack { seq, disposition })))
            .await;
    }

    /// The next report that is not progress.
    pub(crate) async fn report(&mut self) -> v1::Report {
        loop {
            match self.next().await.expect("the session ended") {
                up::Message::Report(report) if report.seq != 0 => return report,
                up::Message::Heartbeat(heartbeat) => {
                    let seq = heartbeat.seq;
                    let ack = v1::HeartbeatAck { seq };
                    self.send(Some(down::Message::HeartbeatAck(ack))).await;
                }
                _ => {}
            }
        }
    }

    /// Waits for the step to begin.
    pub(crate) async fn step(&mut self, wanted: v1::Step) {
        loop {
            if let Some(up::Message::Report(report)) = self.next().await
                && let Some(v1::report::Event::Progress(progress)) = report.event
                && progress.step() == wanted
            {
                return;
            }
        }
    }

    /// The steps that are told within some time.
    pub(crate) async fn steps_within(&mut self, time: Duration) -> Vec<v1::Step> {
        let mut told = Vec::new();
        let _ = tokio::time::timeout(time, async {
            while let Some(message) = self.next().await {
                if let up::Message::Report(report) = message
                    && let Some(v1::report::Event::Progress(progress)) = report.event
                {
                    told.push(progress.step());
                }
            }
        })
        .await;
        told
    }

    /// Waits until the agent says that a stop was carried out; returns the step it tells of.
    pub(crate) async fn stopped(&mut self) -> v1::Step {
        loop {
            let Some(up::Message::Report(report)) = self.next().await else {
                continue;
            };
            match report.event {
                Some(v1::report::Event::Progress(progress)) if progress.stopped => {
                    return progress.step();
                }
                Some(v1::report::Event::Outcome(outcome)) => panic!("not stopped, but {outcome:?}"),
                _ => {}
            }
        }
    }

    /// Takes reports until the outcome, acknowledging what comes before it.
    pub(crate) async fn outcome(&mut self) -> (u64, v1::Outcome) {
        loop {
            let report = self.report().await;
            match report.event {
                Some(v1::report::Event::Outcome(outcome)) => return (report.seq, outcome),
                _ => self.ack(report.seq).await,
            }
        }
    }

    /// Deploys, acknowledges everything and returns the outcome.
    pub(crate) async fn deployed(&mut self, digest: Digest, bundle: &[u8]) -> v1::Outcome {
        self.deploy(&attempt(), digest, bundle).await;
        let (seq, outcome) = self.outcome().await;
        self.ack(seq).await;
        outcome
    }
}
