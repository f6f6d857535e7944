//! A fake server that does exactly what a test tells it.

use std::{net::SocketAddr, sync::Arc};

use parking_lot::Mutex;

use bytes::Bytes;
use kernex_proto::{
    handshake::ReadHello,
    ids::{ClusterId, DeviceId, Digest},
    v1::{
        self,
        agent_service_server::{AgentService, AgentServiceServer},
        device_session_request as up, device_session_response as down,
    },
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming, transport::Server};

type Answer<T> = Result<Response<T>, Status>;
type Down = Result<v1::DeviceSessionResponse, Status>;

/// What one download does.
#[derive(Debug, Clone)]
pub(crate) enum Download {
    /// Sends everything from the offset.
    Whole,
    /// Sends so many bytes, then fails.
    CutAfter(usize),
    /// Sends everything with one byte changed.
    Flipped,
    /// Refuses.
    Refused(Status),
    /// Never answers.
    Silent,
}

#[derive(Default)]
struct State {
    bundle: Vec<u8>,
    /// What the next downloads do; `Whole` when empty.
    downloads: Vec<Download>,
    offsets: Vec<u64>,
    epoch: u64,
    /// What the next Welcome says.
    stops: Vec<v1::Command>,
}

pub(crate) struct FakeServer {
    pub(crate) address: SocketAddr,
    pub(crate) cluster: ClusterId,
    pub(crate) device: DeviceId,
    state: Arc<Mutex<State>>,
    sessions: mpsc::Receiver<Session>,
}

/// The server's end of one session.
pub(crate) struct Session {
    pub(crate) hello: v1::Hello,
    pub(crate) epoch: u64,
    down: mpsc::Sender<Down>,
    up: Streaming<v1::DeviceSessionRequest>,
}

struct Service {
    cluster: ClusterId,
    device: DeviceId,
    state: Arc<Mutex<State>>,
    sessions: mpsc::Sender<Session>,
    tasks: TaskTracker,
}

impl FakeServer {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, sessions) = mpsc::channel(8);
        let (cluster, device) = (ClusterId::generate(), DeviceId::generate());
        let state = Arc::<Mutex<State>>::default();
        let tasks = TaskTracker::new();
        let service = Service {
            cluster,
            device,
            state: Arc::clone(&state),
            sessions: sender,
            tasks: tasks.clone(),
        };
        tasks.spawn(
            Server::builder()
                .add_service(AgentServiceServer::new(service))
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        Self {
            address,
            cluster,
            device,
            state,
            sessions,
        }
    }

    pub(crate) async fn session(&mut self) -> Session {
        let next = self.sessions.recv();
        let limit = std::time::Duration::from_secs(30);
        tokio::time::timeout(limit, next)
            .await
            .expect("no session came")
            .unwrap()
    }

    pub(crate) fn serve(&self, bundle: &[u8], downloads: &[Download]) -> Digest {
        let mut state = self.state.lock();
        state.bundle = bundle.to_vec();
        state.downloads = downloads.to_vec();
        state.offsets.clear();
        Digest::of(bundle)
    }

    /// The next session tells of this stop before it opens.
    pub(crate) fn stop_with_welcome(&self, attempt: &v1::AttemptRef, stop: v1::Stop) {
        self.state.lock().stops.push(v1::Command {
            attempt: Some(attempt.clone()),
            action: Some(v1::command::Action::Stop(stop)),
            ..v1::Command::default()
        });
    }

    pub(crate) fn offsets(&self) -> Vec<u64> {
        self.state.lock().offsets.clone()
    }
}

impl Session {
    pub(crate) async fn send(&self, message: Option<down::Message>) {
        let message = v1::DeviceSessionResponse { message };
        self.down.send(Ok(message)).await.unwrap();
    }

    /// The next message; `None` at the end of the session.
    pub(crate) async fn next(&mut self) -> Option<up::Message> {
        let limit = std::time::Duration::from_secs(30);
        let message = tokio::time::timeout(limit, self.up.message()).await;
        message.expect("the agent says nothing").ok()??.message
    }

    /// Ends the session with a status.
    pub(crate) async fn end(self, status: Status) {
        let _ = self.down.send(Err(status)).await;
    }
}

#[tonic::async_trait]
impl AgentService for Service {
    async fn enroll(&self, _: Request<v1::EnrollRequest>) -> Answer<v1::EnrollResponse> {
        Ok(Response::new(v1::EnrollResponse {
            device_id: self.device.to_string(),
            device_name: "edge-1".into(),
            cluster_id: self.cluster.to_string(),
        }))
    }

    type DeviceSessionStream = ReceiverStream<Down>;

    async fn device_session(
        &self,
        request: Request<Streaming<v1::DeviceSessionRequest>>,
    ) -> Answer<Self::DeviceSessionStream> {
        let mut up = request.into_inner();
        let (down, stream) = mpsc::channel(64);
        let (cluster_id, state) = (self.cluster.to_string(), Arc::clone(&self.state));
        let sessions = self.sessions.clone();
        self.tasks.spawn(async move {
            let send = async |message| {
                let message = Some(message);
                let _ = down.send(Ok(v1::DeviceSessionResponse { message })).await;
            };
            send(down::Message::Challenge(v1::Challenge {
                server_nonce: Bytes::from_static(&[7; 32]),
                cluster_id,
                server_time: None,
                protocol_revision: 2,
            }))
            .await;
            let Ok(Some(first)) = up.message().await else {
                return;
            };
            let Some(up::Message::Hello(hello)) = first.message else {
                panic!("Hello has to be first");
            };
            let ReadHello { hello, .. } = ReadHello::of(hello).expect("a good Hello");
            let (epoch, stops) = {
                let mut state = state.lock();
                state.epoch = state.epoch.max(hello.last_epoch) + 1;
                (state.epoch, std::mem::take(&mut state.stops))
            };
            send(down::Message::Welcome(v1::Welcome {
                epoch,
                heartbeat_interval_ms: 1000,
                session_token: "secret".into(),
                device_name: "edge-1".into(),
                stops,
                ..v1::Welcome::default()
            }))
            .await;
            let Ok(Some(ready)) = up.message().await else {
                return;
            };
            assert_eq!(ready.message, Some(up::Message::Ready(v1::Ready { epoch })));
            let _ = sessions
                .send(Session {
                    hello,
                    epoch,
                    down,
                    up,
                })
                .await;
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    type DownloadBundleStream = ReceiverStream<Result<v1::DownloadBundleResponse, Status>>;

    async fn download_bundle(
        &self,
        request: Request<v1::DownloadBundleRequest>,
    ) -> Answer<Self::DownloadBundleStream> {
        assert_eq!(
            request.metadata().get("kernex-session-token").unwrap(),
            "secret"
        );
        let offset = request.get_ref().offset;
        let (mut bytes, download) = {
            let mut state = self.state.lock();
            state.offsets.push(offset);
            let empty = state.downloads.is_empty();
            let download = if empty {
                Download::Whole
            } else {
                state.downloads.remove(0)
            };
            (
                state.bundle[usize::try_from(offset).unwrap()..].to_vec(),
                download,
            )
        };
        let mut end = None;
        match download {
            Download::Whole => {}
            Download::CutAfter(length) => {
                bytes.truncate(length);
                end = Some(Status::unavailable("cut"));
            }
            Download::Flipped => bytes[0] ^= 1,
            Download::Refused(status) => return Err(status),
            Download::Silent => std::future::pending().await,
        }
        let (sender, stream) = mpsc::channel(4);
        self.tasks.spawn(async move {
            for chunk in bytes.chunks(64 * 1024) {
                let chunk = Bytes::copy_from_slice(chunk);
                let _ = sender.send(Ok(v1::DownloadBundleResponse { chunk })).await;
            }
            if let Some(end) = end {
                let _ = sender.send(Err(end)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
