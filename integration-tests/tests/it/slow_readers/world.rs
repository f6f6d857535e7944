//! The data that is streamed, the clients that ask for it, and the callers that must not notice.

use kernex_integration_tests::{
    Database, Operator, ServerOptions, TestServer,
    bundle::noisy,
    fleet::{Calls, Connector, Receiver, Sender, Windows, Wire, WireError},
    http::HttpClient,
    raw_agent::RawSession,
    server::free_port,
};
use kernex_proto::{
    DEVICE_ID_KEY, SESSION_TOKEN_KEY,
    v1::{
        CreateOperatorTokenRequest, DownloadBundleRequest, FetchBundleRequest, GetDeviceRequest,
        HaltDeploymentRequest, Role, WatchDeploymentRequest, WatchDevicesRequest,
        WatchEventsRequest,
    },
};
use prost::Message as _;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_request};

/// A call: its path, its metadata, and its one message, if it has one.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) path: &'static str,
    pub(super) metadata: Vec<(&'static str, String)>,
    pub(super) message: Option<Vec<u8>>,
}

impl Call {
    pub(super) fn say(&self, sender: &mut Sender) -> Result<(), WireError> {
        let Some(message) = &self.message else {
            return Ok(());
        };
        sender.send_bytes(message)?;
        sender.finish()
    }
}

/// Every RPC that answers with a stream.
pub(super) fn streaming() -> Vec<&'static str> {
    let sets = [
        kernex_proto::DESCRIPTORS,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ];
    let mut paths = Vec::new();
    for set in sets {
        let set = prost_types::FileDescriptorSet::decode(set).expect("decodes");
        for file in &set.file {
            for service in &file.service {
                let streams = service.method.iter().filter(|one| one.server_streaming());
                paths.extend(streams.map(|method| {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    &*path.leak()
                }));
            }
        }
    }
    assert!(paths.len() >= 10, "{paths:?}");
    paths
}

/// A server with something to stream: devices, events, a bundle, a deployment that waits, and a
/// device that may download.
pub(super) struct World {
    pub(super) server: TestServer,
    pub(super) http: HttpClient,
    pub(super) operator: Operator,
    pub(super) session: RawSession,
    pub(super) digest: String,
    pub(super) waiting: String,
    pub(super) device: String,
    pub(super) admin: String,
}

impl World {
    pub(super) async fn start(database: Database, settings: &[(&str, &str)]) -> Self {
        let http = HttpClient::at(free_port());
        // The device sends no heartbeat for as long as the test takes.
        let mut options = ServerOptions::default()
            .env("KERNEX_METRICS_LISTEN", http.address())
            .env("KERNEX_HEARTBEAT_INTERVAL", "1h");
        for (name, value) in settings {
            options = options.env(name, *value);
        }
        let server = TestServer::start_with(database, options).await;
        let operator = server.operator();
        let mut device = server.raw_device("edge-1").await;
        let mut session = device.connect(&server).await;
        // More than any window that is granted here.
        let bundle = operator.push(&noisy("app", "1.0", 1, "true").await).await;
        let waiting = operator.deploy(&bundle, &["edge-1"]).await;
        // The attempt is never accepted, so the device may download and the deployment waits.
        session.deploy_command().await;
        Self {
            http,
            operator,
            digest: bundle.digest,
            waiting,
            device: device.device.to_string(),
            admin: server.admin_token(),
            session,
            server,
        }
    }

    /// How one stream of an RPC is opened. A new one needs a line here.
    pub(super) fn call(&self, path: &'static str, operator: &str) -> Call {
        let bearer = vec![("authorization", format!("Bearer {operator}"))];
        let token = self.session.welcome.session_token.clone();
        let agent = vec![
            (DEVICE_ID_KEY, self.device.clone()),
            (SESSION_TOKEN_KEY, token),
        ];
        let list = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(server_reflection_request::MessageRequest::ListServices(
                String::new(),
            )),
        };
        let deployment_id = self.waiting.clone();
        let (metadata, message) = match path {
            "/kernex.v1.DeviceService/WatchDevices" => {
                (bearer, WatchDevicesRequest::default().encode_to_vec())
            }
            "/kernex.v1.EventService/WatchEvents" => {
                (bearer, WatchEventsRequest::default().encode_to_vec())
            }
            "/kernex.v1.DeploymentService/WatchDeployment" => (
                bearer,
                WatchDeploymentRequest { deployment_id }.encode_to_vec(),
            ),
            "/kernex.v1.RolloutService/HaltDeployment" => {
                let request = HaltDeploymentRequest {
                    deployment_id,
                    ..Default::default()
                };
                (bearer, request.encode_to_vec())
            }
            "/kernex.v1.BundleService/FetchBundle" => {
                let request = FetchBundleRequest {
                    bundle: self.digest.clone(),
                    offset: 0,
                };
                (bearer, request.encode_to_vec())
            }
            "/kernex.v1.AgentService/DownloadBundle" => {
                let request = DownloadBundleRequest {
                    digest: self.digest.clone(),
                    offset: 0,
                };
                (agent, request.encode_to_vec())
            }
            // The session is challenged and stays silent.
            "/kernex.v1.AgentService/DeviceSession" => {
                return Call {
                    path,
                    metadata: Vec::new(),
                    message: None,
                };
            }
            "/grpc.health.v1.Health/Watch" => {
                (bearer, HealthCheckRequest::default().encode_to_vec())
            }
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
            | "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo" => {
                (bearer, list.encode_to_vec())
            }
            _ => panic!("no message for the new streaming RPC {path}: add it to this table"),
        };
        Call {
            path,
            metadata,
            message: Some(message),
        }
    }

    /// An operator's token of its own.
    pub(super) async fn token(&self, name: String) -> String {
        self.token_for(name, 3600).await
    }

    /// The same for so many seconds.
    pub(super) async fn token_for(&self, name: String, ttl_seconds: u64) -> String {
        let request = CreateOperatorTokenRequest {
            name,
            role: Role::Operator.into(),
            ttl_seconds,
            ..Default::default()
        };
        let token = self.operator.access().create_operator_token(request).await;
        token.expect("a token is made").into_inner().text
    }

    pub(super) fn connector(&self, windows: Windows) -> Connector {
        Connector::to(&self.server).with(windows)
    }

    /// The value of a series.
    pub(super) async fn figure(&self, series: &str) -> f64 {
        let value = self.http.metric(series).await;
        value.unwrap_or_else(|| panic!("{series} is not scraped"))
    }

    /// Calls of others, which must not notice the streams that nobody reads.
    pub(super) async fn answers(&self, round: usize) {
        let ready = self.http.get("/readyz").await;
        assert_eq!((ready.status, ready.body.as_str()), (200, "ready\n"));
        let operator = &self.operator;
        let device = operator.try_device("edge-1").await;
        device.expect("a device is shown");
        let token = self.token(format!("fresh-{round}")).await;
        let fresh = operator.with_token(&token);
        fresh.who_am_i().await.expect("a fresh token is known");
        let name = format!("edge-{}", round + 2);
        let mut device = self.server.raw_device(&name).await;
        let mut session = device.connect(&self.server).await;
        let request = kernex_proto::v1::CreateDeploymentRequest {
            bundle: self.digest.clone(),
            device_names: vec![name],
            ..Default::default()
        };
        fresh.deploy_for(request).await.expect("an order is taken");
        session.deploy_command().await;
    }
}

/// Makes a call that authenticates the connection. It asks for a device that does not exist,
/// because an answer without a body needs no window.
pub(super) async fn introduce(calls: &Calls, admin: &str) -> Result<(), WireError> {
    const PATH: &str = "/kernex.v1.DeviceService/GetDevice";
    let bearer = [("authorization", format!("Bearer {admin}"))];
    let (mut up, mut down) = calls.open(PATH, &bearer).await?;
    up.send(&GetDeviceRequest {
        device: "nobody".into(),
    })?;
    up.finish()?;
    match down.skip().await {
        Err(WireError::Status(status)) if status.code() == Code::NotFound => Ok(()),
        other => panic!("nobody is there, and yet: {other:?}"),
    }
}

/// Streams nobody reads, on a connection of their own.
pub(super) struct Attack {
    pub(super) wire: Wire,
    pub(super) _streams: Vec<(Sender, Receiver)>,
}

impl Attack {
    /// The caller has this token, because a stranger may not have so many streams.
    pub(super) async fn open(
        connector: &Connector,
        number: usize,
        admin: &str,
        call: &Call,
        many: usize,
    ) -> Self {
        let mut wire = connector.connect(number).await.expect("it connects");
        let calls = wire.calls.clone();
        let opening = async {
            introduce(&calls, admin).await?;
            let mut streams = Vec::new();
            for _ in 0..many {
                let mut stream = calls.open(call.path, &call.metadata).await?;
                call.say(&mut stream.0)?;
                streams.push(stream);
            }
            Ok::<_, WireError>(streams)
        };
        let streams = wire.during(opening).await;
        Self {
            _streams: streams.expect("the streams are opened"),
            wire,
        }
    }

    /// Moves the connection until the server closes it.
    pub(super) async fn closed(mut self) {
        let _ = self.wire.drive().await;
    }
}
