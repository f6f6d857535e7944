//! Bare tonic: the smallest server that does the same work on the wire, with Kernex's certificate,
//! TLS and HTTP/2 settings, tonic's default codec, and no rows, rights or watchers behind it. Run
//! by the benchmark as a process of its own.

mod session;
mod transfer;

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;

use http::{Request, Response};
use kernex_integration_tests::fleet::Pool;
use kernex_proto::v1::{
    AttemptRef, Command, CreateDeploymentRequest, CreateDeploymentResponse, Deploy, Deployment,
    WhoAmIRequest, WhoAmIResponse, command,
};
use kernex_server::{clock::Clock, edge::tls::Identity};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, body::Body, server::Grpc, transport::Server};
use tonic_prost::ProstCodec;
use tower::{BoxError, service_fn};
use uuid::Uuid;

/// Commands that wait for one session.
const QUEUE: usize = 8;

/// A session with its number.
type Numbered = (u64, mpsc::Sender<Arc<Command>>);

/// What the calls share.
#[derive(Debug)]
pub(crate) struct Bare {
    folder: PathBuf,
    cluster: Uuid,
    keys: Pool,
    /// Newest epoch and way to each device.
    sessions: Mutex<HashMap<String, Numbered>>,
}

/// Serves until it is told to stop.
pub(crate) async fn serve(folder: &Path, port: u16) -> anyhow::Result<()> {
    let identity = Identity::open(folder, &[], Clock::system())?;
    let tls = TlsAcceptor::from(Arc::new(identity.server_config()?));
    let bare = Arc::new(Bare {
        folder: folder.to_owned(),
        cluster: Uuid::now_v7(),
        keys: Pool::kept(),
        sessions: Mutex::default(),
    });
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
    let (ready, connections) = mpsc::channel(64);
    let mut handshakes = JoinSet::new();
    let accepting = async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // Out of descriptors: waiting connections are accepted once others have ended.
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            let (tls, ready) = (tls.clone(), ready.clone());
            handshakes.spawn(async move {
                let _ = stream.set_nodelay(true);
                if let Ok(stream) = tls.accept(stream).await {
                    let _ = ready.send(Ok::<_, std::io::Error>(stream)).await;
                }
            });
            while handshakes.try_join_next().is_some() {}
        }
    };
    let service = service_fn(move |request| answer(Arc::clone(&bare), request));
    // What `kernex-server` sets, value for value.
    let serving = Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .max_concurrent_streams(256)
        .http2_max_header_list_size(16 * 1024)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(2 << 20)
        .serve_with_incoming(service, ReceiverStream::new(connections));
    let mut stop = signal(SignalKind::terminate())?;
    tokio::select! {
        served = serving => Ok(served?),
        () = accepting => Ok(()),
        _ = stop.recv() => Ok(()),
    }
}

/// The router: a path is a call.
async fn answer(bare: Arc<Bare>, request: Request<Body>) -> Result<Response<Body>, BoxError> {
    let path = request.uri().path().to_owned();
    Ok(match path.as_str() {
        "/kernex.v1.AgentService/DeviceSession" => {
            let call = service_fn(move |request| std::future::ready(bare.session(request)));
            let mut grpc = Grpc::new(ProstCodec::default());
            grpc.streaming(call, request).await
        }
        "/kernex.v1.AgentService/DownloadBundle" => {
            let call = service_fn(move |request| transfer::download(Arc::clone(&bare), request));
            let mut grpc = Grpc::new(ProstCodec::default());
            grpc.server_streaming(call, request).await
        }
        "/kernex.v1.BundleService/UploadBundle" => {
            let call = service_fn(move |request| transfer::upload(Arc::clone(&bare), request));
            let mut grpc = Grpc::new(ProstCodec::default());
            grpc.client_streaming(call, request).await
        }
        "/kernex.v1.DeploymentService/CreateDeployment" => {
            let call = service_fn(move |request| std::future::ready(bare.push(request)));
            let mut grpc = Grpc::new(ProstCodec::default());
            grpc.unary(call, request).await
        }
        "/kernex.v1.AccessService/WhoAmI" => {
            let call = service_fn(|_: tonic::Request<WhoAmIRequest>| {
                std::future::ready(Ok(tonic::Response::new(WhoAmIResponse::default())))
            });
            let mut grpc = Grpc::new(ProstCodec::default());
            grpc.unary(call, request).await
        }
        _ => Status::unimplemented("bare tonic does not know this call").into_http(),
    })
}

impl Bare {
    /// Sends a command to the named sessions, or to all.
    fn push(
        &self,
        request: tonic::Request<CreateDeploymentRequest>,
    ) -> Result<tonic::Response<CreateDeploymentResponse>, Status> {
        let request = request.into_inner();
        let deployment = Uuid::now_v7().to_string();
        let sessions = self.sessions.lock();
        let send = |(_, session): &(u64, mpsc::Sender<Arc<Command>>)| {
            let command = Command {
                attempt: Some(AttemptRef {
                    target_id: Uuid::now_v7().to_string(),
                    attempt: 1,
                }),
                remaining_ms: 604_800_000,
                traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into(),
                epoch: 1,
                run: 1,
                action: Some(command::Action::Deploy(Deploy {
                    name: "light".into(),
                    version: "1.0".into(),
                    digest: request.bundle.clone(),
                    size_bytes: 512,
                    deployment_id: deployment.clone(),
                    execution_ms: 3_600_000,
                    ..Deploy::default()
                })),
            };
            // A session that is gone is removed when its stream ends.
            let _ = session.try_send(Arc::new(command));
        };
        if request.device_ids.is_empty() {
            sessions.values().for_each(send);
        } else {
            let named = request.device_ids.iter();
            named.filter_map(|id| sessions.get(id)).for_each(send);
        }
        Ok(tonic::Response::new(CreateDeploymentResponse {
            deployment: Some(Deployment {
                id: deployment.clone(),
                ..Deployment::default()
            }),
        }))
    }
}
