//! The two servers that are measured, started the same way and spoken to the same way.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use kernex_integration_tests::{
    Fleet, Operator, ServerOptions, TestServer,
    fleet::{Backoff, Connector, DeployBehaviour, HeartbeatPace, LABEL, Options, Received, Roster},
    process::{Process, on_core},
    server::free_port,
    wait_for,
};
use kernex_proto::v1::CreateDeploymentRequest;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

use crate::{Bench, machine::Usage, report::Side};

/// Longest wait for a fleet or a transfer.
pub(crate) const LIMIT: Duration = Duration::from_secs(600);

/// Agents that connect at once: more than one core signs for within the time a handshake may take
/// would time out.
const OPENINGS: usize = 128;

/// A server with the devices it knows.
pub(crate) struct Subject {
    pub(crate) side: Side,
    pub(crate) operator: Operator,
    pub(crate) usage: Usage,
    pub(crate) connector: Connector,
    pub(crate) roster: Roster,
    kind: Kind,
}

enum Kind {
    Kernex(Box<TestServer>),
    Bare { folder: TempDir, _process: Process },
}

impl Subject {
    /// Starts one side with `devices` enrolled.
    pub(crate) async fn start(bench: &Bench, side: Side, devices: usize) -> anyhow::Result<Self> {
        match side {
            Side::Kernex => Self::kernex(bench, side, None, devices).await,
            Side::Reference => match &bench.against {
                Some(folder) => {
                    let program = folder.join("kernex-server");
                    Self::kernex(bench, side, Some(program), devices).await
                }
                None => Self::bare(bench, devices).await,
            },
        }
    }

    async fn kernex(
        bench: &Bench,
        side: Side,
        program: Option<PathBuf>,
        devices: usize,
    ) -> anyhow::Result<Self> {
        let options = ServerOptions::default()
            // As shipped, but for heartbeats: the load decides when they come.
            .env("RUST_LOG", "info")
            .env("KERNEX_HEARTBEAT_INTERVAL", "1h")
            .core(bench.cores.server())
            .program(program);
        let server = TestServer::start_with(bench.database, options).await;
        let roster = Roster::enrol(&server, devices).await;
        Ok(Self {
            side,
            operator: server.operator(),
            usage: Usage::of(server.process().pid()),
            connector: Connector::to(&server),
            roster,
            kind: Kind::Kernex(Box::new(server)),
        })
    }

    async fn bare(bench: &Bench, devices: usize) -> anyhow::Result<Self> {
        let folder = TempDir::with_prefix("kernex-bare-")?;
        let port = free_port();
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--bare").arg(folder.path());
        command.args(["--bare-port", &port.to_string()]);
        let log = folder.path().join("bare.log");
        let process = on_core(bench.cores.server(), || {
            Process::spawn("bare tonic", command, &log)
        });
        let data = folder.path();
        let operator = wait_for("bare tonic to answer", || connect(data, port)).await;
        let ca = std::fs::read(data.join("ca.pem"))?;
        Ok(Self {
            side: Side::Reference,
            operator,
            usage: Usage::of(process.pid()),
            connector: Connector::new(port, &ca),
            roster: Roster::unknown(devices),
            kind: Kind::Bare {
                folder,
                _process: process,
            },
        })
    }

    /// Starts the fleet; commands that arrive come out of the receiver.
    pub(crate) fn fleet(
        &self,
        deploys: DeployBehaviour,
    ) -> anyhow::Result<(Fleet, mpsc::UnboundedReceiver<Received>)> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let agents = self.roster.identities.len() as u64;
        let options = Options {
            pace: HeartbeatPace::Never,
            deploys,
            backoff: Backoff {
                first: Duration::from_millis(1),
                ..Backoff::default()
            },
            // Signing is the load's work and takes some milliseconds each.
            spread: Duration::from_millis(4 * agents),
            openings: OPENINGS,
        };
        let fleet =
            Fleet::start_watched(self.connector.clone(), &self.roster, options, Some(sender))?;
        Ok((fleet, receiver))
    }

    /// Orders a deploy to one device.
    pub(crate) async fn push(&self, digest: &str, agent: usize) -> anyhow::Result<()> {
        let device = self.roster.identities[agent].device.to_string();
        self.deploy(CreateDeploymentRequest {
            bundle: digest.to_owned(),
            device_ids: vec![device],
            ..CreateDeploymentRequest::default()
        })
        .await
    }

    /// Orders a deploy to the whole fleet.
    pub(crate) async fn push_all(&self, digest: &str) -> anyhow::Result<()> {
        self.deploy(CreateDeploymentRequest {
            bundle: digest.to_owned(),
            selector: format!("{}={}", LABEL.0, LABEL.1),
            ..CreateDeploymentRequest::default()
        })
        .await
    }

    async fn deploy(&self, request: CreateDeploymentRequest) -> anyhow::Result<()> {
        self.operator.deploy_for(request).await?;
        Ok(())
    }

    /// The folder of its files.
    pub(crate) fn folder(&self) -> PathBuf {
        match &self.kind {
            Kind::Kernex(server) => server.data(),
            Kind::Bare { folder, .. } => folder.path().to_owned(),
        }
    }

    /// The Kernex server, when it is one.
    pub(crate) fn server(&self) -> Option<&TestServer> {
        match &self.kind {
            Kind::Kernex(server) => Some(server),
            Kind::Bare { .. } => None,
        }
    }
}

async fn connect(data: &Path, port: u16) -> Result<Operator, String> {
    let ca = std::fs::read(data.join("ca.pem")).map_err(|error| format!("no ca.pem: {error}"))?;
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
    let channel = Endpoint::from_shared(format!("https://127.0.0.1:{port}"))
        .and_then(|endpoint| endpoint.tls_config(tls))
        .map_err(|error| error.to_string())?
        .connect()
        .await
        .map_err(|error| format!("cannot connect: {error:?}"))?;
    let operator = Operator::new(channel, "bare");
    let known = operator.who_am_i().await;
    known.map_err(|status| status.to_string())?;
    Ok(operator)
}
