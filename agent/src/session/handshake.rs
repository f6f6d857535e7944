//! Opening a session: Challenge, Hello, Welcome, Ready, each within its deadline.
//!
//! Written over any stream of messages, so that each way it can go wrong is tested without a
//! network.

use std::time::Duration;

use kernex_proto::{
    PROTOCOL_REVISION,
    handshake::{
        ChannelBinding, NONCE_LEN, ReadHello, SessionTranscript, SessionTranscriptV1,
        agreed_revision,
    },
    ids::AttemptId,
    v1::{
        self, agent_service_client::AgentServiceClient, device_session_request as up,
        device_session_response as down,
    },
};
use prost::bytes::Bytes;
use rand::{Rng as _, rand_core::UnwrapErr, rngs::SysRng};
use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tonic::{
    Status, Streaming,
    metadata::{Ascii, MetadataValue},
    transport::Channel,
};

use crate::{
    channel::CONNECT_TIMEOUT,
    clock,
    crash::Act,
    disk::Fault,
    host,
    identity::{DeviceKey, Identity},
    journal::{Journal, JournalError},
};

/// Messages waiting to be sent. Reports wait in the journal, so this queue only evens out bursts.
const OUTBOUND: usize = 64;
const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(10);

/// Why a session did not open.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    #[error("the server refused: {code:?}: {message}", code = .0.code(), message = .0.message())]
    Status(Box<Status>),
    #[error("the server did not send {0} within {CONNECT_TIMEOUT:?}")]
    Timeout(&'static str),
    #[error("the server ended the stream instead of sending {0}")]
    Ended(&'static str),
    #[error("the server sent {found} instead of {wanted}")]
    Unexpected {
        wanted: &'static str,
        found: &'static str,
    },
    #[error("the server's {0}")]
    Malformed(String),
    #[error("the server belongs to cluster {0}; this device enrolled in another")]
    OtherCluster(String),
    /// Somebody in between may be asking for the weaker proof.
    #[error(
        "the server offers protocol revision {offered}, but {before} was spoken with it before: either somebody is in between, or it was \
             put back to an older version; in that case start once with `kernex-agent run --allow-downgrade`"
    )]
    Downgraded { offered: u32, before: u32 },
    #[error("cannot sign")]
    Sign(#[source] std::io::Error),
    #[error("the journal failed")]
    Journal(#[from] JournalError),
}

impl From<Status> for HandshakeError {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

/// Both directions of a session.
pub(super) struct Streams {
    /// To the server.
    pub(super) up: mpsc::Sender<v1::DeviceSessionRequest>,
    /// From the server.
    pub(super) down: Streaming<v1::DeviceSessionResponse>,
}

/// What Welcome says, checked.
#[derive(Debug, Clone)]
pub(super) struct Welcome {
    pub(super) epoch: u64,
    pub(super) heartbeat: Duration,
    /// Authorises downloads.
    pub(super) session_token: MetadataValue<Ascii>,
    /// CA certificates, PEM.
    pub(super) trust_bundle_pem: String,
    /// Signature of the old CA over them.
    pub(super) trust_bundle_signature: Bytes,
    pub(super) device_name: String,
    /// Every outcome of the journal numbered up to this is recorded; none when the server does not
    /// say.
    pub(super) recorded_seq: Option<u64>,
    /// The revision of the protocol this session speaks.
    pub(super) protocol_revision: u32,
    /// Stops of attempts in this journal, to be handled before anything continues.
    pub(super) stops: Vec<(AttemptId, v1::Command)>,
    /// The server's clock, in seconds since 1970; 0 when it does not say.
    pub(super) server_seconds: u64,
}

/// What a device needs to authenticate.
pub(super) struct Proof<'a> {
    pub(super) identity: &'a Identity,
    pub(super) key: &'a DeviceKey,
    pub(super) journal: &'a Journal,
    /// The TLS connection that the signature is bound to.
    pub(super) binding: ChannelBinding,
}

/// What the server may ask of this agent beyond a plain deploy.
const CAPABILITIES: [&str; 6] = ["stop", "plan", "configure", "defer", "health", "rollback"];

pub(super) async fn dial(
    mut client: AgentServiceClient<Channel>,
) -> Result<Streams, HandshakeError> {
    let (up, requests) = mpsc::channel(OUTBOUND);
    let call = client.device_session(ReceiverStream::new(requests));
    let response = tokio::time::timeout(CONNECT_TIMEOUT, call)
        .await
        .map_err(|_| HandshakeError::Timeout("headers"))??;
    Ok(Streams {
        up,
        down: response.into_inner(),
    })
}

/// Authenticates and lists the attempts in the journal. The epoch is on disk when this returns,
/// unless the disk has a fault, known before or found now: then nothing is confirmed, and the fault
/// is returned.
pub(super) async fn shake_hands(
    streams: &mut Streams,
    proof: &Proof<'_>,
    fault: Option<Fault>,
) -> Result<(Welcome, Option<Fault>), HandshakeError> {
    let journal = proof.journal;
    let (challenge, revision) = expect_challenge(&mut streams.down, proof.identity).await?;
    let last_epoch = journal.call(Journal::epoch).await?;
    let hello = unsigned_hello(proof, last_epoch).await?;
    let hello = sign(proof, &challenge, revision, hello).await?;
    Act::SendHello.before();
    send(streams, up::Message::Hello(hello)).await?;
    Act::SendHello.after();
    let mut welcome = expect_welcome(&mut streams.down, last_epoch, revision).await?;
    let told = challenge.server_time.map_or(0, |time| time.seconds);
    welcome.server_seconds = u64::try_from(told).unwrap_or(0);
    if fault.is_some() {
        return Ok((welcome, fault));
    }
    let epoch = welcome.epoch;
    let stops = welcome.stops.clone();
    let confirmed = journal.call(move |journal| {
        // Before anything continues that waits for this session.
        for (id, command) in stops {
            let stopped = journal.stop(id, &command)?;
            tracing::info!(command = %id, state = stopped.as_str(), "got a stop with the session");
        }
        journal.confirm_epoch(epoch)
    });
    if let Err(error) = confirmed.await {
        return match error.fault() {
            None => Err(error.into()),
            fault => Ok((welcome, fault)),
        };
    }
    Act::SendReady.before();
    send(streams, up::Message::Ready(v1::Ready { epoch })).await?;
    Act::SendReady.after();
    Ok((welcome, None))
}

async fn send(streams: &Streams, message: up::Message) -> Result<(), HandshakeError> {
    let message = v1::DeviceSessionRequest {
        message: Some(message),
    };
    // A closed channel means that the stream ended; reading it says why.
    let _ = tokio::time::timeout(CONNECT_TIMEOUT, streams.up.send(message)).await;
    Ok(())
}

async fn next(
    stream: &mut (impl Stream<Item = Result<v1::DeviceSessionResponse, Status>> + Unpin),
    wanted: &'static str,
) -> Result<Option<down::Message>, HandshakeError> {
    match tokio::time::timeout(CONNECT_TIMEOUT, stream.next()).await {
        Err(_) => Err(HandshakeError::Timeout(wanted)),
        Ok(None) => Err(HandshakeError::Ended(wanted)),
        Ok(Some(message)) => Ok(message?.message),
    }
}

async fn expect_challenge(
    stream: &mut (impl Stream<Item = Result<v1::DeviceSessionResponse, Status>> + Unpin),
    identity: &Identity,
) -> Result<(v1::Challenge, u32), HandshakeError> {
    let challenge = match next(stream, "Challenge").await? {
        Some(down::Message::Challenge(challenge)) => challenge,
        other => return Err(unexpected("Challenge", other.as_ref())),
    };
    if challenge.server_nonce.len() != NONCE_LEN {
        return Err(HandshakeError::Malformed(
            "nonce is not 32 bytes long".into(),
        ));
    }
    if challenge.cluster_id.parse() != Ok(identity.cluster) {
        return Err(HandshakeError::OtherCluster(challenge.cluster_id));
    }
    let offered = agreed_revision(PROTOCOL_REVISION, challenge.protocol_revision);
    let before = identity.protocol_revision;
    if offered < before {
        return Err(HandshakeError::Downgraded { offered, before });
    }
    Ok((challenge, offered))
}

async fn expect_welcome(
    stream: &mut (impl Stream<Item = Result<v1::DeviceSessionResponse, Status>> + Unpin),
    last_epoch: u64,
    protocol_revision: u32,
) -> Result<Welcome, HandshakeError> {
    let welcome = match next(stream, "Welcome").await? {
        Some(down::Message::Welcome(welcome)) => welcome,
        other => return Err(unexpected("Welcome", other.as_ref())),
    };
    if welcome.epoch <= last_epoch {
        return Err(HandshakeError::Malformed(format!(
            "epoch {} is not newer than {last_epoch}",
            welcome.epoch
        )));
    }
    let heartbeat = match welcome.heartbeat_interval_ms {
        0 => DEFAULT_HEARTBEAT,
        millis => Duration::from_millis(millis.clamp(100, 3_600_000)),
    };
    Ok(Welcome {
        epoch: welcome.epoch,
        heartbeat,
        session_token: metadata(&welcome.session_token)?,
        trust_bundle_pem: welcome.trust_bundle_pem,
        trust_bundle_signature: welcome.trust_bundle_signature,
        device_name: welcome.device_name,
        recorded_seq: welcome.recorded_seq,
        protocol_revision,
        stops: welcome.stops.into_iter().filter_map(stop).collect(),
        server_seconds: 0,
    })
}

/// The attempt that a command in Welcome stops; other commands are ignored.
fn stop(command: v1::Command) -> Option<(AttemptId, v1::Command)> {
    let id = AttemptId::try_from(command.attempt.as_ref()?).ok()?;
    matches!(command.action, Some(v1::command::Action::Stop(_))).then_some((id, command))
}

pub(super) fn metadata(text: &str) -> Result<MetadataValue<Ascii>, HandshakeError> {
    MetadataValue::try_from(text)
        .map_err(|_| HandshakeError::Malformed("session token cannot travel as metadata".into()))
}

/// The Hello of this device, not signed yet.
async fn unsigned_hello(proof: &Proof<'_>, last_epoch: u64) -> Result<v1::Hello, HandshakeError> {
    let mut nonce = [0; NONCE_LEN];
    UnwrapErr(SysRng).fill_bytes(&mut nonce);
    let live = proof.journal.call(Journal::live).await?;
    let acknowledged_seq = proof.journal.call(Journal::acknowledged_seq).await?;
    let held_attempts = live
        .into_iter()
        .map(|(id, record)| v1::HeldAttempt {
            attempt: Some(id.into()),
            state: record.state().into(),
        })
        .collect();
    Ok(v1::Hello {
        device_id: proof.identity.device.to_string(),
        client_nonce: Bytes::copy_from_slice(&nonce),
        boot_id: clock::boot_id(),
        journal_id: proof.journal.id().to_string(),
        last_epoch,
        protocol_revision: PROTOCOL_REVISION,
        capabilities: CAPABILITIES.map(str::to_owned).to_vec(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        inventory: Some(host::inventory()),
        held_attempts,
        acknowledged_seq: Some(acknowledged_seq),
        ..v1::Hello::default()
    })
}

/// Signs a Hello as the revision asks: all of it, bound to this connection; or a few of its fields,
/// for an older server.
async fn sign(
    proof: &Proof<'_>,
    challenge: &v1::Challenge,
    revision: u32,
    hello: v1::Hello,
) -> Result<v1::Hello, HandshakeError> {
    let (identity, key) = (proof.identity, proof.key);
    if revision >= 2 {
        let body = ReadHello::body_of(&hello);
        let transcript = SessionTranscript {
            cluster: identity.cluster,
            server_nonce: &challenge.server_nonce,
            client_nonce: &hello.client_nonce,
            binding: &proof.binding,
            key: key.digest(),
            body: &body,
        };
        let signature = key.sign(transcript.bytes()).await;
        let signature = signature.map_err(HandshakeError::Sign)?;
        return Ok(ReadHello::sealed(body, signature.into()));
    }
    let transcript = SessionTranscriptV1 {
        cluster: identity.cluster,
        server_nonce: &challenge.server_nonce,
        client_nonce: &hello.client_nonce,
        device: identity.device,
        key: key.digest(),
        boot_id: &hello.boot_id,
        journal: proof.journal.id(),
    };
    let signature = key.sign(transcript.bytes()).await;
    let signature = signature.map_err(HandshakeError::Sign)?;
    Ok(v1::Hello {
        signature: signature.into(),
        ..hello
    })
}

fn unexpected(wanted: &'static str, found: Option<&down::Message>) -> HandshakeError {
    let found = match found {
        None => "a message this version does not know",
        Some(down::Message::Challenge(_)) => "Challenge",
        Some(down::Message::Welcome(_)) => "Welcome",
        Some(down::Message::Command(_)) => "Command",
        Some(down::Message::HeartbeatAck(_)) => "HeartbeatAck",
        Some(down::Message::Ack(_)) => "Ack",
        Some(down::Message::Drain(_)) => "Drain",
        Some(down::Message::Unsupported(_)) => "Unsupported",
    };
    HandshakeError::Unexpected { wanted, found }
}

#[cfg(test)]
#[path = "handshake_tests.rs"]
mod tests;
