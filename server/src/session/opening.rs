//! From a new stream to a session in the registry: Challenge, Hello, Welcome, Ready.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use kernex_proto::{
    handshake::ChannelBinding,
    ids::{AttemptId, DeviceId, Digest},
    v1::{
        self, DeviceSessionRequest, DeviceSessionResponse, device_session_response::Message as Down,
    },
};
use rand::{Rng as _, RngExt as _, rand_core::UnwrapErr, rngs::SysRng};
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::Stream;
use tonic::Status;
use tracing::Span;

use super::{
    Sessions,
    committer::Claim,
    decide::{self, Decision},
    handshake::{self, Challenge, HandshakeError, Readiness},
};
use crate::{
    crash::Act,
    delivery::registry::{EndReason, SessionHandle},
    domain::device::away::{Away, AwayReason},
    edge::connections::{ConnectionHandle, Credential},
    error::chain,
};

/// How long a handshake waits for its turn. Then the agent is told to come back.
const ADMISSION_WAIT: Duration = Duration::from_secs(3);

impl Sessions {
    /// Challenge to Ready. Only a confirmed session enters the registry.
    pub(super) async fn open<S>(
        &self,
        inbound: &mut S,
        out: &mpsc::Sender<Box<DeviceSessionResponse>>,
        connection: &ConnectionHandle,
        binding: ChannelBinding,
    ) -> Result<Arc<SessionHandle>, HandshakeError>
    where
        S: Stream<Item = Result<DeviceSessionRequest, Status>> + Unpin,
    {
        let deadline = Instant::now() + handshake::DEADLINE;
        let challenge = Challenge::new(self.settings.cluster, binding, self.settings.min_protocol);
        Act::PushChallenge.before();
        send_handshake(out, Down::Challenge(challenge.message(self.clock.now())))?;
        Act::PushChallenge.after();
        let hello = handshake::receive_hello(inbound, deadline).await;
        if matches!(hello, Err(HandshakeError::TooManyHeld(_))) {
            self.metrics
                .sessions
                .device_limits
                .with_label("held_attempts")
                .inc();
        }
        let hello = hello?;
        Span::current().record("device", tracing::field::display(hello.device));

        let (device, journal) = (hello.device, hello.journal);
        let (token, token_hash) = session_token();
        let opened = {
            let _permit = self.admission_permit().await?;
            let claim = Claim {
                challenge,
                hello,
                token_hash,
                replica: self.settings.replica,
            };
            self.committer.open(claim).await
        };
        let opened = match opened {
            Ok(opened) => opened,
            Err(refusal) => {
                Box::pin(self.note_refusal(device, &refusal)).await;
                return Err(refusal);
            }
        };
        connection.mark_known();
        let epoch = opened.epoch;
        // A revocation after this is found below, unless the confirmation has found it.
        let revoked = self.store.revocations().devices();
        Span::current().record("session", epoch);
        let welcome = v1::Welcome {
            epoch,
            heartbeat_interval_ms: self.settings.heartbeat_interval.as_millis() as u64,
            session_token: token,
            trust_bundle_pem: self.settings.trust_bundle.clone(),
            trust_bundle_signature: Vec::new().into(),
            protocol_revision: kernex_proto::PROTOCOL_REVISION,
            device_name: opened.name.clone(),
            recorded_seq: opened.recorded_seq,
            stops: stop_commands(opened.stops, epoch),
        };
        let confirmed = async {
            Act::PushWelcome.before();
            send_handshake(out, Down::Welcome(welcome))?;
            Act::PushWelcome.after();
            let answered = handshake::receive_ready(inbound, epoch, deadline).await?;
            match &answered {
                Readiness::Ready => self.committer.confirm(device, epoch).await?,
                Readiness::Ailing(_) => self.committer.mark_ailing(device, epoch).await?,
            }
            Ok::<_, HandshakeError>(answered)
        };
        let answered = match confirmed.await {
            Ok(answered) => answered,
            Err(refusal) => {
                let detail = chain(&refusal);
                let reason = AwayReason::Refused;
                self.mark_closed(device, epoch, Away { reason, detail })
                    .await;
                return Err(refusal);
            }
        };
        if opened.conflicted {
            tracing::warn!(device = %device, name = opened.name, "two copies of this device exist; it gets no commands until an operator decides");
        }
        let session = SessionHandle::new(device, epoch, journal, out.clone());
        session.set_disk_fault(opened.disk_fault);
        if let Readiness::Ailing(heartbeat) = answered {
            session.set_ailing();
            match decide::heartbeat(*heartbeat) {
                Decision::Heartbeat { seq, row } => self.record_heartbeat(&session, seq, row).await,
                _ => {
                    let refusal = HandshakeError::Malformed("Heartbeat: it makes no sense".into());
                    let away = Away {
                        reason: AwayReason::Malformed,
                        detail: refusal.to_string(),
                    };
                    self.mark_closed(device, epoch, away).await;
                    return Err(refusal);
                }
            }
        }
        if !self.registry.insert(Arc::clone(&session)) {
            session.end(EndReason::Replaced);
        }
        if self.store.revocations().devices() != revoked {
            let stands = self.store.is_session(device, epoch).await;
            if !matches!(stands, Ok(true)) {
                // The agent comes back and is told why.
                session.end(EndReason::Replaced);
            }
        }
        if session.is_ailing() {
            tracing::warn!(name = opened.name, disk_fault = ?session.disk_fault(), "session opened by an agent that cannot write its state folder; it gets no commands");
        } else {
            tracing::info!(name = opened.name, "session opened");
            self.wake_ups.wake_configurations([device]);
        }
        Ok(session)
    }

    /// Notes that a device was refused that has proved who it is, so that operators see it.
    async fn note_refusal(&self, device: DeviceId, refusal: &HandshakeError) {
        let Some(why) = refusal.of_a_proven_device() else {
            return;
        };
        if let Err(error) = self.store.note_refusal(device, &why).await {
            tracing::warn!(error = %chain(&error), "why a device was refused was not noted");
        }
    }

    async fn admission_permit(&self) -> Result<tokio::sync::SemaphorePermit<'_>, HandshakeError> {
        let busy = || HandshakeError::Overloaded {
            retry_after: Duration::from_millis(rand::rng().random_range(1000..5000)),
        };
        match tokio::time::timeout(ADMISSION_WAIT, self.admission.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(busy()),
        }
    }
}

/// Logs why a stream did not become a session: once a minute for strangers of one source.
pub(super) fn log_refusal(refusal: &HandshakeError, connection: &ConnectionHandle) {
    let why = chain(refusal);
    if matches!(
        refusal,
        HandshakeError::NotAuthenticated(_)
            | HandshakeError::Malformed(_)
            | HandshakeError::TooManyHeld(_)
    ) {
        connection.failed(Credential::Hello);
    }
    if connection.is_stranger() {
        tracing::debug!(reason = refusal.label(), why, "session refused");
        connection.refused("hello", &why);
    } else {
        tracing::info!(reason = refusal.label(), why, "session refused");
    }
}

fn send_handshake(
    out: &mpsc::Sender<Box<DeviceSessionResponse>>,
    message: Down,
) -> Result<(), HandshakeError> {
    let message = DeviceSessionResponse {
        message: Some(message),
    };
    out.try_send(Box::new(message))
        .map_err(|_| HandshakeError::Gone)
}

/// A token for downloads in this session, and its hash, which is stored.
fn session_token() -> (String, Digest) {
    let mut secret = [0; 32];
    UnwrapErr(SysRng).fill_bytes(&mut secret);
    let text = URL_SAFE_NO_PAD.encode(secret);
    let hash = Digest::of(text.as_bytes());
    (text, hash)
}

/// The stops that Welcome carries.
fn stop_commands(stops: Vec<(AttemptId, v1::Stop)>, epoch: u64) -> Vec<v1::Command> {
    let command = |(attempt, stop): (AttemptId, v1::Stop)| v1::Command {
        attempt: Some(attempt.into()),
        epoch,
        action: Some(v1::command::Action::Stop(stop)),
        ..v1::Command::default()
    };
    stops.into_iter().map(command).collect()
}
