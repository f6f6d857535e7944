//! An open session the test speaks in.

use bytes::Bytes;
use kernex_proto::{
    DEVICE_ID_KEY, SESSION_TOKEN_KEY,
    v1::{
        Accepted, Ack, ActiveRelease, AttemptState, Command, Deploy, DeviceSessionRequest,
        DeviceSessionResponse, DiskFault, Disposition, DownloadBundleRequest,
        DownloadBundleResponse, FailureReason, Heartbeat, Outcome, Report, VitalSigns, Welcome,
        agent_service_client::AgentServiceClient, command, device_session_request as up,
        device_session_response as down, report,
    },
};
use prost::Message as _;
use tokio::sync::mpsc;
use tonic::{Code, Request, Status, Streaming, transport::Channel};

use crate::wait::next_message;

#[derive(Debug)]
pub struct RawSession {
    /// The server's `Welcome`.
    pub welcome: Welcome,
    pub(super) device: String,
    pub(super) channel: Channel,
    pub(super) up: mpsc::Sender<Bytes>,
    pub(super) down: Streaming<DeviceSessionResponse>,
}

/// The agent's half of a session, to send while somebody else listens.
#[derive(Debug, Clone)]
pub struct SessionSender(mpsc::Sender<Bytes>);

impl SessionSender {
    /// Sends a message; false when the session is over.
    pub async fn say(&self, message: up::Message) -> bool {
        let message = DeviceSessionRequest {
            message: Some(message),
        };
        self.0.send(message.encode_to_vec().into()).await.is_ok()
    }
}

impl RawSession {
    /// The half that sends.
    #[must_use]
    pub fn sender(&self) -> SessionSender {
        SessionSender(self.up.clone())
    }

    pub async fn send(&self, message: up::Message) {
        let message = DeviceSessionRequest {
            message: Some(message),
        };
        self.send_bytes(message.encode_to_vec()).await;
    }

    /// Sends bytes as one message, whatever they are.
    pub async fn send_bytes(&self, bytes: impl Into<Bytes>) {
        // The server may have closed already. The test looks at its answer.
        let _ = self.up.send(bytes.into()).await;
    }

    /// The next message; `None` when the server ended the stream with OK.
    pub async fn next(&mut self) -> Result<Option<down::Message>, Status> {
        super::next(&mut self.down).await
    }

    /// The next message that `pick` takes; others are passed over.
    ///
    /// # Panics
    /// When the session ends first.
    pub async fn next_where<T>(&mut self, pick: impl Fn(down::Message) -> Option<T>) -> T {
        loop {
            match self.next().await {
                Ok(Some(message)) => {
                    if let Some(picked) = pick(message) {
                        return picked;
                    }
                }
                other => panic!("the session ended: {other:?}"),
            }
        }
    }

    /// The next command.
    pub async fn command(&mut self) -> Command {
        self.next_where(|message| match message {
            down::Message::Command(command) => Some(command),
            _ => None,
        })
        .await
    }

    /// The next command, which has to be a deploy.
    ///
    /// # Panics
    /// When it is not.
    pub async fn deploy_command(&mut self) -> (Command, Deploy) {
        let command = self.command().await;
        match command.action.clone() {
            Some(command::Action::Deploy(deploy)) => (command, deploy),
            other => panic!("expected a deploy, got {other:?}"),
        }
    }

    /// Sends a report and waits for its disposition.
    pub async fn report(&mut self, report: Report) -> Disposition {
        let seq = report.seq;
        self.send(up::Message::Report(report)).await;
        let ack: Ack = self
            .next_where(|message| match message {
                down::Message::Ack(ack) if ack.seq == seq => Some(ack),
                _ => None,
            })
            .await;
        ack.disposition()
    }

    /// Reports that a command is in the journal.
    pub async fn accept(&mut self, command: &Command, seq: u64) -> Disposition {
        self.report(Report {
            attempt: command.attempt.clone(),
            seq,
            event: Some(report::Event::Accepted(Accepted {})),
            traceparent: String::new(),
            previous_outcome_seq: None,
        })
        .await
    }

    /// Reports how a command ended.
    pub async fn outcome(&mut self, command: &Command, seq: u64, outcome: Outcome) -> Disposition {
        self.report(Report {
            attempt: command.attempt.clone(),
            seq,
            event: Some(report::Event::Outcome(outcome)),
            traceparent: String::new(),
            previous_outcome_seq: None,
        })
        .await
    }

    /// Sends a heartbeat and waits until the server has it: everything before has been looked at.
    pub async fn heartbeat(&mut self, seq: u64) {
        self.heartbeat_with(seq, DiskFault::Unspecified).await;
    }

    /// The same, with what is wrong with the disk.
    pub async fn heartbeat_with(&mut self, seq: u64, fault: DiskFault) {
        let heartbeat = Heartbeat {
            seq,
            vital_signs: Some(VitalSigns::default()),
            disk_fault: fault.into(),
            ..Default::default()
        };
        self.send(up::Message::Heartbeat(heartbeat)).await;
        self.next_where(|message| match message {
            down::Message::HeartbeatAck(ack) if ack.seq == seq => Some(()),
            _ => None,
        })
        .await;
    }

    /// Waits until the server ends the session; returns how.
    pub async fn end(&mut self) -> Code {
        loop {
            match self.next().await {
                Ok(Some(_)) => {}
                Ok(None) => return Code::Ok,
                Err(status) => return status.code(),
            }
        }
    }

    /// Downloads a bundle from an offset with this session's token.
    pub async fn download(&self, digest: &str, offset: u64) -> Result<Vec<u8>, Status> {
        let token = self.welcome.session_token.clone();
        self.download_as(&token, digest, offset).await
    }

    /// Begins to download a bundle with this session's token; what is not read holds the server
    /// back.
    pub async fn begin_download(
        &self,
        digest: &str,
    ) -> Result<Streaming<DownloadBundleResponse>, Status> {
        let token = self.welcome.session_token.clone();
        self.pieces(&token, digest, 0).await
    }

    /// Downloads a bundle with any token.
    pub async fn download_as(
        &self,
        token: &str,
        digest: &str,
        offset: u64,
    ) -> Result<Vec<u8>, Status> {
        let mut pieces = self.pieces(token, digest, offset).await?;
        let mut bytes = Vec::new();
        while let Some(piece) = next_message(&mut pieces).await? {
            assert!(piece.chunk.len() <= kernex_proto::CHUNK_SIZE);
            bytes.extend(piece.chunk);
        }
        Ok(bytes)
    }

    async fn pieces(
        &self,
        token: &str,
        digest: &str,
        offset: u64,
    ) -> Result<Streaming<DownloadBundleResponse>, Status> {
        let mut request = Request::new(DownloadBundleRequest {
            digest: digest.to_owned(),
            offset,
        });
        let metadata = request.metadata_mut();
        metadata.insert(SESSION_TOKEN_KEY, token.parse().expect("tokens are ASCII"));
        metadata.insert(DEVICE_ID_KEY, self.device.parse().expect("ids are ASCII"));
        let mut client = AgentServiceClient::new(self.channel.clone());
        Ok(client.download_bundle(request).await?.into_inner())
    }
}

/// An outcome that says the deploy succeeded and runs now.
#[must_use]
pub fn succeeded(deploy: &Deploy) -> Outcome {
    Outcome {
        state: AttemptState::Succeeded.into(),
        output_tail: "done\n".into(),
        exit_code: Some(0),
        active: Some(Box::new(ActiveRelease {
            name: deploy.name.clone(),
            version: deploy.version.clone(),
            digest: deploy.digest.clone(),
            ..Default::default()
        })),
        duration_ms: 5,
        ..Default::default()
    }
}

/// An outcome that says the deploy failed.
#[must_use]
pub fn failed(reason: FailureReason, message: &str) -> Outcome {
    Outcome {
        state: AttemptState::Failed.into(),
        reason: reason.into(),
        message: message.to_owned(),
        ..Default::default()
    }
}
