//! Challenge, Hello, Welcome, Ready: how a stream becomes a session. These are functions over a
//! `Stream`, with one deadline for all four.
//!
//! Each failed proof is answered with the same vague `UNAUTHENTICATED`; only the server's log has
//! the detail. A proof that holds for a revoked key is answered in words.

use std::time::Duration;

use bytes::Bytes;
use kernex_proto::{
    PROTOCOL_REVISION,
    handshake::{
        ChannelBinding, NONCE_LEN, ReadHello, SessionTranscript, SessionTranscriptV1,
        agreed_revision,
    },
    ids::{AttemptId, ClusterId, DeviceId, Digest, JournalId},
    v1::{self, DeviceSessionRequest, device_session_request::Message},
};
use rand::{Rng as _, rand_core::UnwrapErr, rngs::SysRng};
use tokio::time::{Instant, timeout_at};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Code, Status};

pub use super::error::HandshakeError;
use crate::{
    clock::Timestamp,
    domain::attempt::State,
    signature::signature_holds,
    store::{DeviceKey, HeldAttempt},
};

/// A stream that is no open session by then is closed.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Attempts in one Hello. An agent has far fewer unresolved ones at a time. So many fit into the
/// 256 KiB of a Hello, so that an agent with more of them is told so.
pub(super) const MAX_HELD: usize = 4096;

/// What the server asks an agent to sign. Valid on one connection only.
#[derive(Debug, Clone, Copy)]
pub struct Challenge {
    nonce: [u8; NONCE_LEN],
    cluster: ClusterId,
    binding: ChannelBinding,
    least: u32,
}

impl Challenge {
    /// A new challenge for a connection. `least` is the oldest revision of the protocol that may
    /// answer it.
    #[must_use]
    pub fn new(cluster: ClusterId, binding: ChannelBinding, least: u32) -> Self {
        let mut nonce = [0; NONCE_LEN];
        UnwrapErr(SysRng).fill_bytes(&mut nonce);
        Self {
            nonce,
            cluster,
            binding,
            least,
        }
    }

    #[must_use]
    pub fn message(&self, now: Timestamp) -> v1::Challenge {
        v1::Challenge {
            server_nonce: self.nonce.to_vec().into(),
            cluster_id: self.cluster.to_string(),
            server_time: Some(now.to_proto()),
            protocol_revision: PROTOCOL_REVISION,
        }
    }
}

/// A Hello whose fields were checked. It proves nothing yet.
#[derive(Debug)]
pub struct Hello {
    /// The device it claims to be.
    pub device: DeviceId,
    pub journal: JournalId,
    /// Attempts in its journal.
    pub held: Vec<HeldAttempt>,
    /// The other fields, as they came.
    pub wire: v1::Hello,
    /// The bytes that are signed; from revision 2 on.
    body: Option<Bytes>,
}

impl Hello {
    /// The revision of the protocol that its signature is made by.
    #[must_use]
    pub const fn revision(&self) -> u32 {
        if self.body.is_some() { 2 } else { 1 }
    }
}

impl TryFrom<v1::Hello> for Hello {
    type Error = HandshakeError;

    fn try_from(wire: v1::Hello) -> Result<Self, HandshakeError> {
        let bad = |why: String| HandshakeError::Malformed(format!("Hello: {why}"));
        let ReadHello { hello: wire, body } =
            ReadHello::of(wire).map_err(|why| bad(why.to_string()))?;
        let device = wire.device_id.parse().map_err(|e| bad(format!("{e}")))?;
        let journal = wire.journal_id.parse().map_err(|e| bad(format!("{e}")))?;
        if wire.client_nonce.len() != NONCE_LEN {
            return Err(bad(format!("client_nonce has to be {NONCE_LEN} bytes")));
        }
        if wire.protocol_revision == 0 {
            return Err(bad("protocol_revision is missing".into()));
        }
        if wire.boot_id.len() > 128 || wire.agent_version.len() > 128 {
            return Err(bad("boot_id or agent_version is too long".into()));
        }
        if wire.held_attempts.len() > MAX_HELD {
            return Err(HandshakeError::TooManyHeld(wire.held_attempts.len()));
        }
        let held = wire
            .held_attempts
            .iter()
            .map(|held| {
                let attempt = held.attempt.as_ref().ok_or("an attempt is missing")?;
                Ok(HeldAttempt {
                    attempt: AttemptId::try_from(attempt).map_err(|_| "a bad attempt")?,
                    state: State::try_from(held.state()).map_err(|_| "a bad state")?,
                })
            })
            .collect::<Result<_, &str>>()
            .map_err(|why| bad(why.into()))?;
        Ok(Self {
            device,
            journal,
            held,
            wire,
            body,
        })
    }
}

pub async fn receive_hello<S>(inbound: &mut S, deadline: Instant) -> Result<Hello, HandshakeError>
where
    S: Stream<Item = Result<DeviceSessionRequest, Status>> + Unpin,
{
    match next(inbound, deadline).await? {
        Message::Hello(hello) => hello.try_into(),
        _ => Err(HandshakeError::Malformed(
            "the first message has to be Hello".into(),
        )),
    }
}

/// What an agent answers to Welcome.
#[derive(Debug)]
pub enum Readiness {
    /// The epoch is on its disk.
    Ready,
    /// Its disk cannot be written. Its first heartbeat says what is wrong.
    Ailing(Box<v1::Heartbeat>),
}

/// Waits for Ready with the epoch of Welcome. An agent that cannot write its state folder sends a
/// heartbeat instead.
pub async fn receive_ready<S>(
    inbound: &mut S,
    epoch: u64,
    deadline: Instant,
) -> Result<Readiness, HandshakeError>
where
    S: Stream<Item = Result<DeviceSessionRequest, Status>> + Unpin,
{
    match next(inbound, deadline).await? {
        Message::Ready(ready) if ready.epoch == epoch => Ok(Readiness::Ready),
        Message::Ready(_) => Err(HandshakeError::Malformed(
            "Ready names another epoch".into(),
        )),
        Message::Heartbeat(heartbeat) if heartbeat.disk_fault != 0 => {
            Ok(Readiness::Ailing(Box::new(heartbeat)))
        }
        _ => Err(HandshakeError::Malformed(
            "the message after Welcome has to be Ready".into(),
        )),
    }
}

async fn next<S>(inbound: &mut S, deadline: Instant) -> Result<Message, HandshakeError>
where
    S: Stream<Item = Result<DeviceSessionRequest, Status>> + Unpin,
{
    match timeout_at(deadline, inbound.next()).await {
        Err(_) => Err(HandshakeError::TooSlow),
        Ok(None) => Err(HandshakeError::Gone),
        Ok(Some(Err(status))) => Err(broken(&status)),
        Ok(Some(Ok(request))) => request.message.ok_or_else(|| {
            HandshakeError::Malformed("an unknown message before the session is open".into())
        }),
    }
}

/// What a failed read means. The peer is at fault when its bytes do not decode, and otherwise the
/// connection is.
fn broken(status: &Status) -> HandshakeError {
    if status.code() == Code::OutOfRange {
        HandshakeError::Malformed("a message is too long".into())
    } else if undecodable(status) {
        HandshakeError::Malformed("a message cannot be decoded".into())
    } else {
        HandshakeError::Gone
    }
}

/// Whether the peer sent bytes that are no message, or too many of them.
#[must_use]
pub fn undecodable(status: &Status) -> bool {
    // tonic uses these codes for what prost and its own framing refuse, and other codes for a lost
    // connection.
    matches!(status.code(), Code::Internal | Code::OutOfRange)
        && std::error::Error::source(status).is_none()
}

/// Checks the signature over this connection's challenge with the key that the device enrolled
/// with. Returns which key that is.
pub fn verify(
    challenge: &Challenge,
    hello: &Hello,
    key: Option<&DeviceKey>,
) -> Result<Digest, HandshakeError> {
    let Some(key) = key else {
        return Err(HandshakeError::NotAuthenticated(
            "unknown or revoked device",
        ));
    };
    let transcript = match &hello.body {
        Some(body) => SessionTranscript {
            cluster: challenge.cluster,
            server_nonce: &challenge.nonce,
            client_nonce: &hello.wire.client_nonce,
            binding: &challenge.binding,
            key: key.digest,
            body,
        }
        .bytes(),
        None => SessionTranscriptV1 {
            cluster: challenge.cluster,
            server_nonce: &challenge.nonce,
            client_nonce: &hello.wire.client_nonce,
            device: hello.device,
            key: key.digest,
            boot_id: &hello.wire.boot_id,
            journal: hello.journal,
        }
        .bytes(),
    };
    if !signature_holds(&key.der, &transcript, &hello.wire.signature) {
        return Err(HandshakeError::NotAuthenticated("bad signature"));
    }
    let (spoken, known) = (hello.revision(), hello.wire.protocol_revision);
    if spoken < challenge.least {
        let least = challenge.least;
        return Err(HandshakeError::ProtocolTooOld { spoken, least });
    }
    if spoken != agreed_revision(PROTOCOL_REVISION, known) {
        return Err(HandshakeError::ProtocolDowngraded { spoken, known });
    }
    Ok(key.digest)
}

#[cfg(test)]
mod tests;
