//! A session of bare tonic: the handshake with its proof, then an echo that commands can be pushed
//! into. One stream, no task.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use aws_lc_rs::signature::{RSA_PSS_2048_8192_SHA256, UnparsedPublicKey};
use kernex_proto::{
    PROTOCOL_REVISION,
    handshake::SessionTranscriptV1,
    ids::{ClusterId, DeviceId, Digest},
    v1::{
        Ack, Challenge, Command, DeviceSessionRequest, DeviceSessionResponse, Disposition,
        HeartbeatAck, Hello, Welcome, device_session_request as up,
        device_session_response as down,
    },
};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::{Bare, QUEUE};

pub(super) struct Session {
    bare: Arc<Bare>,
    nonce: [u8; 32],
    begun: bool,
    device: String,
    epoch: u64,
    inbound: Streaming<DeviceSessionRequest>,
    commands: Option<mpsc::Receiver<Arc<Command>>>,
}

impl Bare {
    pub(super) fn session(
        self: &Arc<Self>,
        request: Request<Streaming<DeviceSessionRequest>>,
    ) -> Result<Response<Session>, Status> {
        Ok(Response::new(Session {
            bare: Arc::clone(self),
            nonce: rand::random(),
            begun: false,
            device: String::new(),
            epoch: 0,
            inbound: request.into_inner(),
            commands: None,
        }))
    }

    fn proved(&self, nonce: &[u8], hello: &Hello) -> Option<()> {
        let device: DeviceId = hello.device_id.parse().ok()?;
        let transcript = SessionTranscriptV1 {
            cluster: ClusterId(self.cluster),
            server_nonce: nonce,
            client_nonce: &hello.client_nonce,
            device,
            // The same digest as in the roster.
            key: Digest::of(device.to_string().as_bytes()),
            boot_id: &hello.boot_id,
            journal: hello.journal_id.parse().ok()?,
        };
        let key = self.keys.public_key(&hello.agent_version)?;
        UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA256, key)
            .verify(&transcript.bytes(), &hello.signature)
            .ok()
    }
}

impl Session {
    fn answer(&mut self, message: up::Message) -> Result<Option<down::Message>, Status> {
        Ok(match message {
            up::Message::Hello(hello) => {
                let proved = self.bare.proved(&self.nonce, &hello);
                proved.ok_or_else(|| Status::unauthenticated("not authenticated"))?;
                let (sender, commands) = mpsc::channel(QUEUE);
                self.commands = Some(commands);
                self.device = hello.device_id;
                self.epoch = hello.last_epoch + 1;
                let mut sessions = self.bare.sessions.lock();
                sessions.insert(self.device.clone(), (self.epoch, sender));
                Some(down::Message::Welcome(Welcome {
                    epoch: self.epoch,
                    heartbeat_interval_ms: 3_600_000,
                    protocol_revision: PROTOCOL_REVISION,
                    ..Welcome::default()
                }))
            }
            up::Message::Heartbeat(heartbeat) => Some(down::Message::HeartbeatAck(HeartbeatAck {
                seq: heartbeat.seq,
            })),
            up::Message::Report(report) => Some(down::Message::Ack(Ack {
                seq: report.seq,
                disposition: Disposition::Applied.into(),
            })),
            _ => None,
        })
    }
}

impl Stream for Session {
    type Item = Result<DeviceSessionResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let say = |message| {
            Poll::Ready(Some(Ok(DeviceSessionResponse {
                message: Some(message),
            })))
        };
        if !self.begun {
            self.begun = true;
            return say(down::Message::Challenge(Challenge {
                server_nonce: self.nonce.to_vec().into(),
                cluster_id: self.bare.cluster.to_string(),
                server_time: None,
                // Revision 1: its proof costs the same, and the connection does not have to be
                // handed over.
                protocol_revision: 1,
            }));
        }
        if let Some(commands) = &mut self.commands
            && let Poll::Ready(Some(command)) = commands.poll_recv(context)
        {
            let command = Arc::unwrap_or_clone(command);
            return say(down::Message::Command(command));
        }
        loop {
            let message = match Pin::new(&mut self.inbound).poll_next(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(request))) => request.message,
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(None),
            };
            match message.map(|message| self.answer(message)) {
                Some(Ok(Some(answer))) => return say(answer),
                Some(Ok(None)) | None => {}
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut sessions = self.bare.sessions.lock();
        // A newer session of the same device keeps its place.
        if sessions
            .get(&self.device)
            .is_some_and(|(epoch, _)| *epoch == self.epoch)
        {
            sessions.remove(&self.device);
        }
    }
}
