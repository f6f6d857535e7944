//! A fake server: it sends a real agent what the real server never would.
//!
//! It serves TLS with a CA of its own, lets every device in without looking, and then does what the
//! test says: commands of any kind, bundles no upload would accept, bytes that are not what was
//! promised.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;

use kernex_proto::{
    PROTOCOL_REVISION,
    handshake::EnrollmentToken,
    ids::{AttemptId, ClusterId, DeviceId, Digest, TargetId, TokenId},
    v1::{
        BundleFormat, Command, Deploy, DeviceSessionResponse, Outcome, Unsupported,
        agent_service_server::AgentServiceServer, command, device_session_request as up,
        device_session_response as down, report,
    },
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    PublicKeyData as _,
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Status,
    transport::{Identity, Server, ServerTlsConfig},
};

use crate::{
    agent::{AgentOptions, TestAgent},
    wait::LIMIT,
};

mod service;

use service::Service;

type Reply = Result<DeviceSessionResponse, Status>;

#[derive(Debug)]
struct Shared {
    cluster: ClusterId,
    device: DeviceId,
    // Answers to downloads of each digest, one per request. The last one stays.
    bundles: Mutex<HashMap<String, Vec<Vec<u8>>>>,
    session: watch::Sender<Option<mpsc::Sender<Reply>>>,
    heard: mpsc::UnboundedSender<up::Message>,
    epoch: Mutex<u64>,
    /// The protocol revision it announces; 0 makes it an old server.
    protocol_revision: AtomicU32,
    /// Tokens of sessions up to this one are refused.
    doubted: Mutex<u64>,
    /// The `recorded_seq` of Welcome.
    recorded: Mutex<Option<u64>>,
    /// Whether reports are left without an answer.
    silent: Mutex<bool>,
    sessions: Mutex<JoinSet<()>>,
}

/// A running fake server with one device.
#[derive(Debug)]
pub struct FakeServer {
    address: SocketAddr,
    pin: Digest,
    shared: Arc<Shared>,
    heard: mpsc::UnboundedReceiver<up::Message>,
    _tasks: JoinSet<()>,
}

impl FakeServer {
    /// Starts one.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("a port is free");
        let address = listener.local_addr().expect("it has an address");
        let (identity, pin) = certificates().expect("certificates can be made");
        let (sender, heard) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            cluster: ClusterId::generate(),
            device: DeviceId::generate(),
            bundles: Mutex::default(),
            session: watch::Sender::new(None),
            heard: sender,
            epoch: Mutex::new(0),
            protocol_revision: AtomicU32::new(PROTOCOL_REVISION),
            doubted: Mutex::new(0),
            recorded: Mutex::new(None),
            silent: Mutex::new(false),
            sessions: Mutex::default(),
        });
        let service = AgentServiceServer::new(Service(Arc::clone(&shared)));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let tls = ServerTlsConfig::new().identity(identity);
            let mut server = Server::builder()
                .tls_config(tls)
                .expect("the certificates fit");
            let _ = server
                .add_service(service)
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await;
        });
        Self {
            address,
            pin,
            shared,
            heard,
            _tasks: tasks,
        }
    }

    /// Its URL for agents.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// A real agent that is enrolled here; its state goes below `folder`.
    #[must_use]
    pub fn agent(&self, folder: &Path) -> TestAgent {
        self.agent_with(folder, AgentOptions::named("edge-1"))
    }

    /// A real agent with options that is enrolled here.
    #[must_use]
    pub fn agent_with(&self, folder: &Path, options: AgentOptions) -> TestAgent {
        TestAgent::enrol_at(folder, &self.url(), &self.token(), 0, options)
    }

    /// Text of an enrolment token; any number of uses.
    #[must_use]
    pub fn token(&self) -> String {
        let token = EnrollmentToken {
            id: TokenId::generate(),
            cluster: self.shared.cluster,
            ca_pin: self.pin,
            webpki: None,
            secret: [7; 32],
        };
        token.to_text()
    }

    /// Serves these bytes as a bundle; returns a deploy that names it truly.
    #[must_use]
    pub fn bundle(&self, name: &str, bytes: Vec<u8>) -> Deploy {
        let deploy = Deploy {
            name: name.to_owned(),
            version: "1.0".into(),
            digest: Digest::of(&bytes).to_string(),
            size_bytes: bytes.len() as u64,
            format: BundleFormat::TarGz.into(),
            deployment_id: TargetId::generate().to_string(),
            signatures: Vec::new(),
            execution_ms: 600_000,
            go_back: false,
            limits: None,
        };
        self.serve(&deploy.digest, vec![bytes]);
        deploy
    }

    /// Answers downloads of a digest with these bytes in turn; the last one stays.
    pub fn serve(&self, digest: &str, answers: Vec<Vec<u8>>) {
        let mut bundles = self.shared.bundles.lock();
        bundles.insert(digest.to_owned(), answers);
    }

    /// Announces this protocol revision from now on; 0 makes it an old server.
    pub fn announce(&self, protocol_revision: u32) {
        self.shared
            .protocol_revision
            .store(protocol_revision, Relaxed);
    }

    /// Refuses downloads of sessions up to this one as not authenticated.
    pub fn doubt(&self, epoch: u64) {
        let doubted = &self.shared.doubted;
        *doubted.lock() = epoch;
    }

    /// Says in each Welcome from now on that it has every outcome up to this one.
    pub fn has_recorded(&self, seq: Option<u64>) {
        let recorded = &self.shared.recorded;
        *recorded.lock() = seq;
    }

    /// Leaves reports without an answer from now on, or answers them again.
    pub fn acknowledge(&self, does: bool) {
        let silent = &self.shared.silent;
        *silent.lock() = !does;
    }

    /// Sends a command about a new attempt, once the agent is connected; returns the attempt.
    pub async fn command(&self, action: Option<command::Action>) -> AttemptId {
        let attempt = AttemptId {
            target: TargetId::generate(),
            number: 1,
        };
        self.command_for(attempt, action).await;
        attempt
    }

    /// Sends a command about this attempt, once the agent is connected.
    pub async fn command_for(&self, attempt: AttemptId, action: Option<command::Action>) {
        let session = self.session().await;
        let epoch = *self.shared.epoch.lock();
        let command = Command {
            attempt: Some(attempt.into()),
            remaining_ms: 600_000,
            traceparent: String::new(),
            epoch,
            run: 1,
            action,
        };
        let message = Some(down::Message::Command(command));
        let sent = session.send(Ok(DeviceSessionResponse { message })).await;
        sent.expect("the session is open");
    }

    /// Sends any message, once the agent is connected.
    pub async fn send(&self, message: Option<down::Message>) {
        let session = self.session().await;
        let sent = session.send(Ok(DeviceSessionResponse { message })).await;
        sent.expect("the session is open");
    }

    async fn session(&self) -> mpsc::Sender<Reply> {
        let mut session = self.shared.session.subscribe();
        let session = timeout(LIMIT, session.wait_for(Option::is_some)).await;
        let session = session
            .expect("the agent connects")
            .expect("the sender lives");
        session.clone().expect("it was waited for")
    }

    /// Deploys a bundle and waits for the outcome.
    pub async fn outcome_of(&mut self, deploy: Deploy) -> Outcome {
        let attempt = self.command(Some(command::Action::Deploy(deploy))).await;
        self.outcome(attempt).await
    }

    /// Waits for the outcome of an attempt.
    pub async fn outcome(&mut self, attempt: AttemptId) -> Outcome {
        self.next_where("the outcome", |message| match message {
            up::Message::Report(report) if report.attempt == Some(attempt.into()) => {
                match report.event {
                    Some(report::Event::Outcome(outcome)) => Some(outcome),
                    _ => None,
                }
            }
            _ => None,
        })
        .await
    }

    /// Waits for `unsupported`.
    pub async fn unsupported(&mut self) -> Unsupported {
        self.next_where("unsupported", |message| match message {
            up::Message::Unsupported(unsupported) => Some(unsupported),
            _ => None,
        })
        .await
    }

    /// Waits for a heartbeat that was not sent yet when this was called.
    pub async fn heartbeat(&mut self) {
        while self.heard.try_recv().is_ok() {}
        self.next_where("a heartbeat", |message| match message {
            up::Message::Heartbeat(_) => Some(()),
            _ => None,
        })
        .await;
    }

    /// Waits for a message that `pick` takes.
    ///
    /// # Panics
    /// When none comes.
    pub async fn next_where<T>(
        &mut self,
        what: &str,
        pick: impl Fn(up::Message) -> Option<T>,
    ) -> T {
        let mut passed = Vec::new();
        let wait = async {
            loop {
                let message = self.heard.recv().await.expect("the server lives");
                if !matches!(message, up::Message::Heartbeat(_)) {
                    passed.push(format!("{message:?}").chars().take(400).collect::<String>());
                }
                if let Some(picked) = pick(message) {
                    return picked;
                }
            }
        };
        match timeout(LIMIT, wait).await {
            Ok(picked) => picked,
            Err(_) => panic!("the agent did not send {what}, but {passed:#?}"),
        }
    }
}

fn certificates() -> Result<(Identity, Digest), rcgen::Error> {
    let key = KeyPair::generate()?;
    let pin = Digest::of(&key.subject_public_key_info());
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, key)?;
    let leaf_key = KeyPair::generate()?;
    let mut leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()])?;
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let leaf = leaf.signed_by(&leaf_key, &ca)?;
    let chain = format!("{}{}", leaf.pem(), ca.pem());
    Ok((Identity::from_pem(chain, leaf_key.serialize_pem()), pin))
}
