//! An agent that a test speaks for, message by message. It can send what no real agent would.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use kernex_proto::{
    PROTOCOL_REVISION,
    handshake::{ChannelBinding, EnrollTranscript, EnrollmentToken},
    ids::{ClusterId, DeviceId, Digest, JournalId},
    v1::{
        AttemptState, Challenge, Command, DeviceSessionResponse, DiskFault, EnrollRequest,
        EnrollResponse, HeldAttempt, Hello, Ready, Welcome,
        agent_service_client::AgentServiceClient, device_session_request as up,
        device_session_response as down,
    },
};
use rsa::{
    PrivateKey,
    pkcs8::EncodePublicKey as _,
    pss::SigningKey,
    signature::{RandomizedSigner as _, SignatureEncoding as _},
};
use sha2::Sha256;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming, client::Grpc, transport::Channel};

use crate::{keys, server::TestServer};

mod codec;
mod hello;
mod session;
mod wire;

use codec::AnyBytes;
pub use session::{RawSession, SessionSender, failed, succeeded};
pub use wire::WireSession;

/// Longest wait for the next message of the server.
const PATIENCE: Duration = Duration::from_secs(60);

/// A device whose key the test holds.
#[derive(Debug, Clone)]
pub struct RawIdentity {
    pub device: DeviceId,
    pub name: String,
    /// The cluster it enrolled in.
    pub cluster: ClusterId,
    pub key: PrivateKey,
    pub journal: JournalId,
    /// The newest epoch on its disk.
    pub last_epoch: u64,
    /// Newest protocol revision it speaks; 1 makes it an old agent.
    pub protocol_revision: u32,
}

impl RawIdentity {
    /// Enrols pool key `key` under a name.
    pub async fn enrol(
        server: &TestServer,
        token: &str,
        key: usize,
        name: &str,
    ) -> Result<Self, Status> {
        Self::enrol_with(server, token, keys::key(key), name).await
    }

    /// Enrols any key under a name.
    pub async fn enrol_with(
        server: &TestServer,
        token: &str,
        key: PrivateKey,
        name: &str,
    ) -> Result<Self, Status> {
        let token: EnrollmentToken = token.parse().expect("the server made it");
        let request = enroll_request(&token, &key, name);
        let answer = enrol(server, request).await?;
        Ok(Self {
            device: answer.device_id.parse().expect("a device id"),
            name: answer.device_name,
            cluster: answer.cluster_id.parse().expect("a cluster id"),
            key,
            journal: JournalId::generate(),
            last_epoch: 0,
            protocol_revision: PROTOCOL_REVISION,
        })
    }

    /// Opens a session as a real agent does.
    ///
    /// # Panics
    /// When the server refuses.
    pub async fn connect(&mut self, server: &TestServer) -> RawSession {
        self.try_connect(server).await.expect("the session opens")
    }

    /// Opens a session as a real agent does; `Err` when the server refuses.
    pub async fn try_connect(&mut self, server: &TestServer) -> Result<RawSession, Status> {
        self.open(server, Vec::new()).await
    }

    /// Opens a session and says that this attempt is in the journal.
    ///
    /// # Panics
    /// When the server refuses.
    pub async fn connect_holding(
        &mut self,
        server: &TestServer,
        command: &Command,
        state: AttemptState,
    ) -> RawSession {
        let held = HeldAttempt {
            attempt: command.attempt.clone(),
            state: state.into(),
        };
        let session = self.open(server, vec![held]).await;
        session.expect("the session opens")
    }

    /// Opens a session as an agent does that cannot write its state folder: its number is not on
    /// the disk, and a heartbeat says why.
    ///
    /// # Panics
    /// When the server refuses.
    pub async fn connect_ailing(&self, server: &TestServer, fault: DiskFault) -> RawSession {
        let opening = Opening::new(server).await.expect("it is challenged");
        let hello = opening.hello(self);
        let mut session = opening.say(hello).await.expect("it is welcome");
        session.heartbeat_with(1, fault).await;
        session
    }

    /// Opens a session and says that these attempts are in the journal; `Err` when the server
    /// refuses.
    pub async fn open(
        &mut self,
        server: &TestServer,
        held: Vec<HeldAttempt>,
    ) -> Result<RawSession, Status> {
        let opening = Opening::new(server).await?;
        let mut hello = opening.hello(self);
        hello.held_attempts = held;
        opening.sign(self, &mut hello);
        let session = opening.say(hello).await?;
        self.last_epoch = session.welcome.epoch;
        session
            .send(up::Message::Ready(Ready {
                epoch: session.welcome.epoch,
            }))
            .await;
        Ok(session)
    }

    /// The answer to a challenge on any connection, signed, as it goes over the wire.
    #[must_use]
    pub fn answer(&self, challenge: &Challenge, binding: &ChannelBinding) -> Hello {
        let mut hello = hello::unsigned(self);
        hello::sign(self, challenge, binding, &mut hello);
        hello::sealed(challenge, hello)
    }

    /// The public key as SPKI DER.
    #[must_use]
    pub fn public_key(&self) -> Vec<u8> {
        public_key(&self.key)
    }
}

/// A valid enrolment request, for a test to change.
#[must_use]
pub fn enroll_request(token: &EnrollmentToken, key: &PrivateKey, name: &str) -> EnrollRequest {
    let public_key = public_key(key);
    let nonce: [u8; 32] = rand::random();
    let transcript = EnrollTranscript {
        cluster: token.cluster,
        token: token.id,
        key: Digest::of(&public_key),
        nonce: &nonce,
    };
    EnrollRequest {
        token_id: token.id.to_string(),
        token_secret: URL_SAFE_NO_PAD.encode(token.secret),
        signature: sign(key, &transcript.bytes()),
        public_key: public_key.into(),
        device_name: name.to_owned(),
        nonce: nonce.to_vec().into(),
        inventory: Some(hello::inventory()),
    }
}

/// Sends an enrolment request on a connection of its own.
pub async fn enrol(server: &TestServer, request: EnrollRequest) -> Result<EnrollResponse, Status> {
    let mut client = AgentServiceClient::new(server.channel().await);
    Ok(client.enroll(request).await?.into_inner())
}

/// A connection on which the server has said `Challenge` and waits for `Hello`.
#[derive(Debug)]
pub struct Opening {
    /// What the server wants signed.
    pub challenge: Challenge,
    /// The connection, as both ends see it.
    pub binding: ChannelBinding,
    channel: Channel,
    up: mpsc::Sender<Bytes>,
    down: Streaming<DeviceSessionResponse>,
}

impl Opening {
    /// Connects and waits for `Challenge`.
    pub async fn new(server: &TestServer) -> Result<Self, Status> {
        let connection = server.connection().await;
        Self::over(connection).await
    }

    /// Waits for `Challenge` on a connection.
    pub async fn over((channel, binding): (Channel, ChannelBinding)) -> Result<Self, Status> {
        let (up, receiver) = mpsc::channel(64);
        let mut grpc = Grpc::new(channel.clone());
        grpc.ready()
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let path = "/kernex.v1.AgentService/DeviceSession";
        let path = http::uri::PathAndQuery::from_static(path);
        let request = Request::new(ReceiverStream::new(receiver));
        let mut down = grpc.streaming(request, path, AnyBytes).await?.into_inner();
        match next(&mut down).await? {
            Some(down::Message::Challenge(challenge)) => Ok(Self {
                challenge,
                binding,
                channel,
                up,
                down,
            }),
            other => panic!("the server opened with {other:?}"),
        }
    }

    /// A valid `Hello` for this connection, signed; [`Self::say`] encodes it for its revision.
    #[must_use]
    pub fn hello(&self, identity: &RawIdentity) -> Hello {
        let mut hello = hello::unsigned(identity);
        self.sign(identity, &mut hello);
        hello
    }

    /// Signs a `Hello` as it stands.
    ///
    /// # Panics
    /// When its journal is not an id.
    pub fn sign(&self, identity: &RawIdentity, hello: &mut Hello) {
        hello::sign(identity, &self.challenge, &self.binding, hello);
    }

    /// A signed `Hello` as it goes over the wire.
    #[must_use]
    pub fn sealed(&self, hello: Hello) -> Hello {
        hello::sealed(&self.challenge, hello)
    }

    /// Sends nothing and waits until the server ends it; returns the status.
    ///
    /// # Panics
    /// When the server goes on.
    pub async fn silence(mut self) -> Status {
        match next(&mut self.down).await {
            Ok(other) => panic!("the server went on with {other:?}"),
            Err(status) => status,
        }
    }

    /// Sends `Hello` and waits for `Welcome`; does not send `Ready`.
    pub async fn say(self, hello: Hello) -> Result<RawSession, Status> {
        let device = hello.device_id.clone();
        let sealed = self.sealed(hello);
        let mut session = self.say_first(up::Message::Hello(sealed)).await?;
        session.device = device;
        Ok(session)
    }

    /// Sends any message in place of `Hello`.
    pub async fn say_first(self, first: up::Message) -> Result<RawSession, Status> {
        let mut session = RawSession {
            welcome: Welcome::default(),
            device: String::new(),
            channel: self.channel,
            up: self.up,
            down: self.down,
        };
        session.send(first).await;
        match next(&mut session.down).await? {
            Some(down::Message::Welcome(welcome)) => {
                session.welcome = welcome;
                Ok(session)
            }
            other => panic!("the server answered Hello with {other:?}"),
        }
    }
}

async fn next(
    stream: &mut Streaming<DeviceSessionResponse>,
) -> Result<Option<down::Message>, Status> {
    match tokio::time::timeout(PATIENCE, stream.message()).await {
        Ok(Ok(Some(response))) => Ok(Some(response.message.expect("servers send known messages"))),
        Ok(Ok(None)) => Ok(None),
        Ok(Err(status)) => Err(status),
        Err(_) => panic!("the server said nothing for {PATIENCE:?}"),
    }
}

fn public_key(key: &PrivateKey) -> Vec<u8> {
    let der = key.to_public_key().to_public_key_der();
    der.expect("a public key can be written").into_vec()
}

fn sign(key: &PrivateKey, message: &[u8]) -> Bytes {
    let key = SigningKey::<Sha256>::new_with_salt_len(key.clone(), 32);
    let signature = key.sign_with_rng(&mut rand::rng(), message);
    signature.to_vec().into()
}
