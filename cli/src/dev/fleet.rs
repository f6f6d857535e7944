//! The tasks of `dev`: one control plane, some agents, their stop tokens, and the report when one
//! of them fails.

use std::{
    future::Future,
    net::TcpListener,
    path::{Path, PathBuf},
    time::Duration,
};

use kernex_proto::handshake::EnrollmentToken;
use kernex_server::Shutdown;
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::error::{Exit, Failure};

/// Most time for the agents to stop.
const AGENTS_STOP: Duration = Duration::from_secs(8);
/// Most time for the control plane to drain.
const SERVER_STOP: Duration = Duration::from_secs(5);

pub(super) struct Fleet {
    server: JoinSet<()>,
    shutdown: Shutdown,
    agents: TaskTracker,
    agents_stop: CancellationToken,
    failures: mpsc::Receiver<Failure>,
    starter: Starter,
}

/// Starts devices. A handle of its own, so that the fleet can be watched at the same time.
#[derive(Clone)]
pub(super) struct Starter {
    /// Where the control plane listens.
    pub(super) server_url: String,
    home: PathBuf,
    agents: TaskTracker,
    stop: CancellationToken,
    failures: FailureReports,
}

/// Reports the first task that failed; later failures follow from it.
#[derive(Clone)]
struct FailureReports(mpsc::Sender<Failure>);

impl FailureReports {
    fn report(&self, who: &str, why: &anyhow::Error) {
        let failure = Failure::new(
            Exit::Error,
            format!("{who} stopped: {why:#}"),
            "Run it again with RUST_LOG=info to see more.",
        );
        // A full queue means that another one was first.
        let _ = self.0.try_send(failure);
    }
}

/// Reports a task that ends before it was asked to, also by a panic.
struct Watched {
    who: String,
    failures: FailureReports,
    stop: CancellationToken,
    ended: bool,
}

impl Watched {
    async fn run(mut self, task: impl Future<Output = anyhow::Result<()>>) {
        let result = task.await;
        self.ended = true;
        match result {
            Err(error) => self.failures.report(&self.who, &error),
            Ok(()) if self.stop.is_cancelled() => {}
            Ok(()) => self
                .failures
                .report(&self.who, &anyhow::anyhow!("nobody asked it to")),
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if !self.ended && !self.stop.is_cancelled() {
            self.failures
                .report(&self.who, &anyhow::anyhow!("it panicked"));
        }
    }
}

pub(super) fn server_folder(home: &Path) -> PathBuf {
    home.join("server")
}

impl Fleet {
    /// Starts the control plane.
    pub(super) fn new(home: &Path, listener: TcpListener) -> Result<Self, Failure> {
        let folder = server_folder(home);
        let prepare = || {
            std::fs::create_dir_all(&folder)?;
            listener.set_nonblocking(true)?;
            listener.local_addr()
        };
        let address = prepare().map_err(|error| Failure::file("create", &folder, &error))?;
        let (sender, failures) = mpsc::channel(1);
        let failure_reports = FailureReports(sender);
        let shutdown = Shutdown::new();
        let mut config = kernex_server::Config::for_dev(&folder);
        // Short, so that something can be seen.
        config.heartbeat_interval = Duration::from_secs(5);
        config.drain_deadline = SERVER_STOP;

        let mut server = JoinSet::new();
        let watched = Watched {
            who: "the control plane".to_owned(),
            failures: failure_reports.clone(),
            stop: shutdown.soft.clone(),
            ended: false,
        };
        let run = Box::pin(kernex_server::run(config, listener, shutdown.clone()));
        server.spawn(watched.run(run));
        let agents = TaskTracker::new();
        let agents_stop = CancellationToken::new();
        Ok(Self {
            server,
            shutdown,
            failures,
            starter: Starter {
                server_url: format!("https://{address}"),
                home: home.to_owned(),
                agents: agents.clone(),
                stop: agents_stop.clone(),
                failures: failure_reports,
            },
            agents,
            agents_stop,
        })
    }

    /// A handle that starts devices.
    pub(super) fn starter(&self) -> Starter {
        self.starter.clone()
    }

    /// Resolves when something has stopped that should run.
    pub(super) async fn first_failure(&mut self) -> Failure {
        match self.failures.recv().await {
            Some(failure) => failure,
            // A sender lives in `starter`, so this is never reached; waiting is right in any case.
            None => std::future::pending().await,
        }
    }

    /// Stops the agents first, so that they can say goodbye, then the control plane.
    pub(super) async fn stop(mut self) {
        self.agents_stop.cancel();
        self.agents.close();
        let _ = tokio::time::timeout(AGENTS_STOP, self.agents.wait()).await;
        self.shutdown.soft.cancel();
        let ended = async { while self.server.join_next().await.is_some() {} };
        if tokio::time::timeout(SERVER_STOP + Duration::from_secs(1), ended)
            .await
            .is_err()
        {
            self.shutdown.hard.cancel();
            let ended = async { while self.server.join_next().await.is_some() {} };
            let _ = tokio::time::timeout(Duration::from_secs(2), ended).await;
        }
    }
}

impl Starter {
    /// Starts all devices at once: making a key keeps one processor busy, so they share the
    /// processors.
    pub(super) fn start_devices(&self, count: u16, token: &EnrollmentToken) {
        for number in 1..=count {
            let name = format!("device-{number}");
            let mut config = kernex_agent::Config::new(self.home.join("devices").join(&name));
            config.servers = vec![self.server_url.clone()];
            config.name = Some(name.clone());
            config.token = Some(token.clone());
            let watched = Watched {
                who: name,
                failures: self.failures.clone(),
                stop: self.stop.clone(),
                ended: false,
            };
            self.agents
                .spawn(watched.run(Box::pin(kernex_agent::run(config, self.stop.clone()))));
        }
    }
}
