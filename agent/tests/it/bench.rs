//! A test bench: an agent that runs in this process, with its state folder and a fake server.

use std::{fs, path::PathBuf, process::Command, sync::OnceLock, time::Duration};

use kernex_agent::{Config, DeviceKey};
use kernex_proto::{
    handshake::EnrollmentToken,
    ids::{Digest, TokenId},
};
use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::fake_server::{Download, FakeServer, Session};

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
    /// An enrolled, running agent, and its session.
    pub(crate) async fn connected() -> (Self, Session) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("state")).unwrap();
        fs::write(dir.path().join("state/device.key"), key_pem()).unwrap();
        let mut bench = Self {
            server: FakeServer::start().await,
            dir,
            agent: None,
        };
        let session = bench.start().await;
        (bench, session)
    }

    /// Starts the agent, and waits for its session.
    pub(crate) async fn start(&mut self) -> Session {
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
        self.server.session().await
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

    /// Removes what the scripts have written up to now.
    pub(crate) fn clear_witness(&self) {
        fs::remove_file(self.witness()).unwrap();
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

    /// A bundle with this manifest and two files, which the server has from now on.
    pub(crate) fn serve(&self, manifest: &serde_json::Value) -> Bundle {
        self.serve_with(manifest, &[])
    }

    /// Like `serve`, but the next downloads do this.
    pub(crate) fn serve_with(
        &self,
        manifest: &serde_json::Value,
        downloads: &[Download],
    ) -> Bundle {
        let bytes = pack(manifest);
        let digest = self.server.serve(&bytes, downloads);
        let version = manifest["version"].as_str().unwrap_or_default().to_owned();
        Bundle {
            bytes,
            digest,
            version,
        }
    }

    /// The server has this bundle again, and no longer another one.
    pub(crate) fn serve_again(&self, bundle: &Bundle) {
        self.server.serve(&bundle.bytes, &[]);
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Some((_, shutdown)) = &self.agent {
            shutdown.cancel();
        }
    }
}

/// A bundle that the fake server has.
pub(crate) struct Bundle {
    bytes: Vec<u8>,
    pub(crate) digest: Digest,
    /// As its manifest says; empty when that says none.
    pub(crate) version: String,
}

impl Bundle {
    pub(crate) fn size(&self) -> u64 {
        self.bytes.len() as u64
    }
}

fn pack(manifest: &serde_json::Value) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("manifest.json"), manifest.to_string()).unwrap();
    fs::write(dir.path().join("payload"), vec![b'x'; 300_000]).unwrap();
    // Not compressible, so that a download has a middle to be cut in.
    let noise: Vec<u8> = (0..20_000u32)
        .flat_map(|n| Digest::of(&n.to_be_bytes()).0)
        .collect();
    fs::write(dir.path().join("noise"), noise).unwrap();
    let packed = Command::new("tar")
        .args(["czf", "-", "manifest.json", "payload", "noise"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(packed.status.success());
    packed.stdout
}
