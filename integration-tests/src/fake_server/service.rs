//! gRPC service of the fake server: it accepts every Hello and answers as the test prepared.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use parking_lot::Mutex;

use bytes::Bytes;
use kernex_proto::{
    CHUNK_SIZE, PROTOCOL_REVISION,
    handshake::ReadHello,
    v1::{
        Ack, Challenge, DeviceSessionRequest, DeviceSessionResponse, Disposition,
        DownloadBundleRequest, DownloadBundleResponse, EnrollRequest, EnrollResponse, HeartbeatAck,
        Welcome, agent_service_server::AgentService, device_session_request as up,
        device_session_response as down,
    },
};
use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

use super::{Reply, Shared};

pub(super) struct Service(pub(super) Arc<Shared>);

#[tonic::async_trait]
impl AgentService for Service {
    async fn enroll(
        &self,
        request: Request<EnrollRequest>,
    ) -> Result<Response<EnrollResponse>, Status> {
        Ok(Response::new(EnrollResponse {
            device_id: self.0.device.to_string(),
            device_name: request.into_inner().device_name,
            cluster_id: self.0.cluster.to_string(),
        }))
    }

    type DeviceSessionStream = ReceiverStream<Reply>;

    async fn device_session(
        &self,
        request: Request<Streaming<DeviceSessionRequest>>,
    ) -> Result<Response<Self::DeviceSessionStream>, Status> {
        let (sender, receiver) = mpsc::channel(64);
        let shared = Arc::clone(&self.0);
        let mut sessions = self.0.sessions.lock();
        sessions.spawn(serve_session(shared, request.into_inner(), sender));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    type DownloadBundleStream =
        Pin<Box<dyn Stream<Item = Result<DownloadBundleResponse, Status>> + Send>>;

    async fn download_bundle(
        &self,
        request: Request<DownloadBundleRequest>,
    ) -> Result<Response<Self::DownloadBundleStream>, Status> {
        let request = request.into_inner();
        let number = |of: &Mutex<u64>| *of.lock();
        if number(&self.0.epoch) <= number(&self.0.doubted) {
            return Err(Status::unauthenticated("not authenticated"));
        }
        let mut bundles = self.0.bundles.lock();
        let answers = bundles
            .get_mut(&request.digest)
            .ok_or_else(|| Status::not_found("the bundle is gone"))?;
        let bytes = match answers.as_slice() {
            [last] => last.clone(),
            _ => answers.remove(0),
        };
        let offset = usize::try_from(request.offset)
            .unwrap_or(usize::MAX)
            .min(bytes.len());
        let bytes = Bytes::from(bytes).slice(offset..);
        let pieces: Vec<_> = bytes
            .chunks(CHUNK_SIZE)
            .map(Bytes::copy_from_slice)
            .collect();
        let pieces = tokio_stream::iter(pieces);
        Ok(Response::new(Box::pin(
            pieces.map(|chunk| Ok(DownloadBundleResponse { chunk })),
        )))
    }
}

fn known<T: Copy>(what: &Mutex<T>) -> T {
    *what.lock()
}

async fn serve_session(
    shared: Arc<Shared>,
    mut requests: Streaming<DeviceSessionRequest>,
    replies: mpsc::Sender<Reply>,
) {
    let say = |message| {
        let replies = replies.clone();
        async move {
            let message = Some(message);
            let _ = replies.send(Ok(DeviceSessionResponse { message })).await;
        }
    };
    say(down::Message::Challenge(Challenge {
        server_nonce: vec![1; 32].into(),
        cluster_id: shared.cluster.to_string(),
        server_time: None,
        protocol_revision: shared.protocol_revision.load(Relaxed),
    }))
    .await;
    while let Ok(Some(request)) = requests.message().await {
        let message = match request.message {
            Some(up::Message::Hello(hello)) => {
                // Every agent is let in, so the signature is not checked.
                let read = ReadHello::of(hello).expect("agents say good Hellos");
                up::Message::Hello(read.hello)
            }
            Some(message) => message,
            None => continue,
        };
        match &message {
            up::Message::Hello(hello) => {
                let epoch = hello.last_epoch + 1;
                *shared.epoch.lock() = epoch;
                say(down::Message::Welcome(Welcome {
                    epoch,
                    heartbeat_interval_ms: 300,
                    session_token: "a-session-token".into(),
                    trust_bundle_pem: String::new(),
                    trust_bundle_signature: Bytes::new(),
                    protocol_revision: PROTOCOL_REVISION,
                    device_name: "device".into(),
                    recorded_seq: known(&shared.recorded),
                    stops: Vec::new(),
                }))
                .await;
            }
            up::Message::Ready(_) => {
                shared.session.send_replace(Some(replies.clone()));
            }
            up::Message::Heartbeat(heartbeat) => {
                say(down::Message::HeartbeatAck(HeartbeatAck {
                    seq: heartbeat.seq,
                }))
                .await;
            }
            up::Message::Report(report) if report.seq > 0 && !known(&shared.silent) => {
                say(down::Message::Ack(Ack {
                    seq: report.seq,
                    disposition: Disposition::Applied.into(),
                }))
                .await;
            }
            up::Message::Report(_)
            | up::Message::Unsupported(_)
            | up::Message::Planned(_)
            | up::Message::Configured(_) => {}
        }
        let _ = shared.heard.send(message);
    }
    shared.session.send_replace(None);
}
