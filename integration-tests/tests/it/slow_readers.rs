//! Clients that do not read. HTTP/2 lets a client grant a window of 0 bytes. That may stop its own
//! stream and nothing else, on *every* streaming RPC: they are found in the descriptors, so that a
//! new one cannot be forgotten.

use std::{fs, time::Duration};

use kernex_integration_tests::{
    BundleBuilder, Database, Operator, ServerOptions, TestServer, both_databases,
    bundle::noisy,
    fleet::{Calls, Connector, Receiver, Sender, Windows, Wire, WireError},
    http::HttpClient,
    raw_agent::RawSession,
    server::free_port,
    wait::seen,
    wait_for,
};
use kernex_proto::v1::{
    CreateOperatorTokenRequest, DownloadBundleRequest, FetchBundleRequest, GetDeviceRequest,
    HaltDeploymentRequest, Role, UploadBegin, WatchDeploymentRequest, WatchDevicesRequest,
    WatchEventsRequest,
};
use kernex_proto::{DEVICE_ID_KEY, SESSION_TOKEN_KEY};
use prost::Message;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_request};
use tonic_types::StatusExt as _;

/// No room for a single byte of any stream.
const SHUT: Windows = Windows {
    stream: 0,
    ..Windows::QUIET
};
/// Streams of each RPC.
const MANY: usize = 64;

/// A call that can be made: its path, its metadata, and its one message, if anything is said at
/// all.
#[derive(Debug, Clone)]
struct Call {
    path: &'static str,
    metadata: Vec<(&'static str, String)>,
    message: Option<Vec<u8>>,
}

impl Call {
    fn say(&self, sender: &mut Sender) -> Result<(), WireError> {
        let Some(message) = &self.message else {
            return Ok(());
        };
        sender.send_bytes(message)?;
        sender.finish()
    }
}

/// Every RPC that answers with a stream.
fn streaming() -> Vec<&'static str> {
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

/// What there is to be streamed: devices, events, a bundle, a deployment that waits, and a device
/// that may download.
struct World {
    server: TestServer,
    http: HttpClient,
    operator: Operator,
    session: RawSession,
    digest: String,
    waiting: String,
    device: String,
    admin: String,
}

impl World {
    async fn start(database: Database, settings: &[(&str, &str)]) -> Self {
        let http = HttpClient::at(free_port());
        // Its device says nothing for as long as the test takes.
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
        // Never accepted: the device may download, and the deployment waits.
        session.deploy_command().await;
        let admin = fs::read_to_string(server.data().join("admin.token")).expect("a token");
        Self {
            http,
            operator,
            digest: bundle.digest,
            waiting,
            device: device.device.to_string(),
            admin: admin.trim().to_owned(),
            session,
            server,
        }
    }

    /// How one stream of an RPC is opened. A new one needs a line here.
    fn call(&self, path: &'static str, operator: &str) -> Call {
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
            // Challenged, and silent.
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
    async fn token(&self, name: String) -> String {
        let request = CreateOperatorTokenRequest {
            name,
            role: Role::Operator.into(),
            ttl_seconds: 3600,
            ..Default::default()
        };
        let token = self.operator.access().create_operator_token(request).await;
        token.expect("a token is made").into_inner().text
    }

    fn connector(&self, windows: Windows) -> Connector {
        let ca = fs::read(self.server.data().join("ca.pem")).expect("a CA");
        Connector::new(self.server.port(), &ca).with(windows)
    }

    /// The value of a series.
    async fn figure(&self, series: &str) -> f64 {
        let scrape = self.http.get("/metrics").await.body;
        let mut lines = scrape.lines();
        let value = lines.find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.map_or(-1.0, |value| value.parse().expect("a number"))
    }

    /// Everything that must not notice who else is there.
    async fn answers(&self, round: usize) {
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

/// Makes a connection known. What is asked for is not there: an answer without a body needs no
/// window.
async fn introduce(calls: &Calls, admin: &str) -> Result<(), WireError> {
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
struct Attack {
    wire: Wire,
    _streams: Vec<(Sender, Receiver)>,
}

impl Attack {
    /// By somebody with this token: a stranger would not be let have so many.
    async fn open(
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
    async fn closed(mut self) {
        let _ = self.wire.drive().await;
    }
}

both_databases![
    a_client_that_reads_nothing_of_any_stream_delays_nobody_else,
    a_client_that_reads_nothing_is_cut_off_and_its_streams_are_freed,
    one_token_cannot_take_every_upload,
    a_slow_download_is_not_cut_off,
];

async fn a_client_that_reads_nothing_of_any_stream_delays_nobody_else(database: Database) {
    // As many as anybody likes, and for as long: it is not the limits that this rests on.
    let world = World::start(
        database,
        &[
            ("KERNEX_MAX_STREAMS_PER_TOKEN", "10000"),
            ("KERNEX_STALL_LIMIT", "1h"),
        ],
    )
    .await;
    let shut = world.connector(SHUT);
    let mut attacks = tokio::task::JoinSet::new();
    for (number, path) in streaming().into_iter().enumerate() {
        let call = world.call(path, &world.admin);
        let attack = Attack::open(&shut, number, &world.admin, &call, MANY).await;
        attacks.spawn(attack.closed());
    }
    let watches = 3.0 * MANY as f64;
    wait_for("the watches to be held", || async {
        let held = world.figure("kernex_watchers").await;
        seen(held == watches, held)
    })
    .await;
    for round in 0..3 {
        world.answers(round).await;
    }
    assert_eq!(
        world.figure("kernex_watchers").await,
        watches,
        "they are still held"
    );
    attacks.abort_all();
    wait_for("everything to be given back", || async {
        let held = world.figure("kernex_watchers").await;
        seen(held == 0.0, held)
    })
    .await;
}

async fn a_client_that_reads_nothing_is_cut_off_and_its_streams_are_freed(database: Database) {
    let world = World::start(
        database,
        &[
            ("KERNEX_MAX_STREAMS_PER_TOKEN", "8"),
            ("KERNEX_STALL_LIMIT", "1s"),
        ],
    )
    .await;
    let shut = world.connector(SHUT);
    for (number, path) in streaming().into_iter().enumerate() {
        let token = world.token(format!("slow-{number}")).await;
        let call = world.call(path, &token);
        // All the places of the token that the RPC counts for, and one more call that is
        // refused.
        let attack = Attack::open(&shut, number, &world.admin, &call, 9).await;
        let closed = tokio::time::timeout(Duration::from_secs(90), attack.closed()).await;
        assert!(closed.is_ok(), "{path}: the connection is still open");
        let slow = world.operator.with_token(&token);
        wait_for(&format!("the places of {path} to come back"), || async {
            let mut watches = Vec::new();
            for _ in 0..8 {
                let watch = slow
                    .events()
                    .watch_events(WatchEventsRequest::default())
                    .await;
                watches.push(watch.map_err(|status| status.to_string())?);
            }
            Ok::<_, String>(())
        })
        .await;
    }
    let (ended, cut) = (
        world
            .figure("kernex_slow_readers_total{result=\"ended\"}")
            .await,
        world
            .figure("kernex_slow_readers_total{result=\"disconnected\"}")
            .await,
    );
    assert!(ended >= 8.0 && cut >= 8.0, "{ended} {cut}");
    assert!(world.figure("kernex_token_limit_total").await >= 8.0);
    let log = fs::read_to_string(world.server.scratch().join("server.log")).expect("a log");
    assert!(
        log.contains("a connection is closed: an answer on it is not read"),
        "{log}"
    );
    // Eight at a time, and not nine.
    let mut watches = Vec::new();
    for _ in 0..8 {
        let watch = world
            .operator
            .events()
            .watch_events(WatchEventsRequest::default())
            .await;
        watches.push(watch.expect("a place is there"));
    }
    let ninth = world
        .operator
        .events()
        .watch_events(WatchEventsRequest::default())
        .await;
    let refused = ninth.expect_err("there are eight");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(
        refused.message().contains("8 streams")
            && refused.message().contains("--max-streams-per-token"),
        "{refused}"
    );
    drop(watches.pop());
    wait_for("the place to come back", || async {
        let again = world
            .operator
            .events()
            .watch_events(WatchEventsRequest::default())
            .await;
        again.map_err(|status| status.to_string())
    })
    .await;
    world.answers(0).await;
}

async fn one_token_cannot_take_every_upload(database: Database) {
    let world = World::start(database, &[]).await;
    let staging = world.server.data().join("bundles/tmp");
    let mut idle = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let operator = world.operator.clone();
        idle.spawn(async move {
            operator
                .try_push_stream(UploadBegin::default(), tokio_stream::pending())
                .await
        });
    }
    wait_for("four uploads to begin", || async {
        let files = fs::read_dir(&staging).map(Iterator::count).unwrap_or(0);
        seen(files == 4, files)
    })
    .await;
    let archive = BundleBuilder::script("other", "1.0", "true").gzip().await;
    let refused = world
        .operator
        .try_push(&archive)
        .await
        .expect_err("there are four");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let reason = refused.get_details_error_info().map(|info| info.reason);
    assert_eq!(reason.as_deref(), Some("TOKEN_LIMIT"), "{refused}");
    let token = world.token("another".into()).await;
    let other = world.operator.with_token(&token);
    other
        .try_push(&archive)
        .await
        .expect("another token has its own places");
    idle.abort_all();
    wait_for("the places to come back", || async {
        world
            .operator
            .try_push(&archive)
            .await
            .map_err(|status| status.to_string())
    })
    .await;
}

async fn a_slow_download_is_not_cut_off(database: Database) {
    let world = World::start(database, &[("KERNEX_STALL_LIMIT", "4s")]).await;
    let few = Windows {
        stream: 8,
        ..Windows::QUIET
    };
    let call = world.call("/kernex.v1.AgentService/DownloadBundle", &world.admin);
    let mut wire = world.connector(few).connect(0).await.expect("it connects");
    let calls = wire.calls.clone();
    let reading = async {
        let (mut sender, mut receiver) = calls.open(call.path, &call.metadata).await?;
        call.say(&mut sender)?;
        let mut taken = 0;
        // Eight bytes at a time, for three times as long as a stream without progress may live.
        for _ in 0..60 {
            taken += receiver.skip().await?;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok::<_, WireError>(taken)
    };
    let taken = wire.during(reading).await.expect("it is not cut off");
    assert!(taken > 0 && taken < 64 * 1024, "{taken}");
    assert_eq!(
        world
            .figure("kernex_slow_readers_total{result=\"ended\"}")
            .await,
        0.0
    );
}
