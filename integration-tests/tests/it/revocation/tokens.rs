//! Open calls of a token that is revoked or expires.

use bytes::Bytes;
use kernex_integration_tests::{
    Database, Operator, TestServer, both_databases, bundle, wait::next_message,
};
use kernex_proto::v1::{
    CreateOperatorTokenRequest, FetchBundleRequest, FetchBundleResponse,
    RevokeOperatorTokenRequest, Role, UploadBegin, WatchDeploymentRequest, WatchDevicesRequest,
    WatchEventsRequest,
};
use tokio::{sync::oneshot, task::JoinSet};
use tokio_stream::StreamExt as _;
use tonic::{Code, Status, Streaming};

use super::{TokenHolder, end, revoke, soon, token_holder};

/// Open calls of one token, each with a name.
struct Streams {
    read: JoinSet<(&'static str, Status)>,
    /// It is not read yet, so it has not ended.
    fetch: Streaming<FetchBundleResponse>,
}

impl Streams {
    /// Opens one call of each kind.
    async fn open(server: &TestServer, eve: &TokenHolder, bundle: &str, deployment: &str) -> Self {
        let operator = &eve.operator;
        // It has a connection of its own, because a stream that is not read blocks the others.
        let fetching = Operator::new(server.channel().await, &eve.token);
        let fetch = FetchBundleRequest {
            bundle: bundle.to_owned(),
            offset: 0,
        };
        let fetch = fetching.bundles().fetch_bundle(fetch).await;
        let devices = operator
            .devices()
            .watch_devices(WatchDevicesRequest::default())
            .await;
        let events = WatchEventsRequest {
            from_now: true,
            ..Default::default()
        };
        let events = operator.events().watch_events(events).await;
        let watched = WatchDeploymentRequest {
            deployment_id: deployment.to_owned(),
        };
        let watched = operator.deployments().watch_deployment(watched).await;
        let mut devices = devices.expect("it is allowed").into_inner();
        next_message(&mut devices)
            .await
            .expect("it shows what is there");
        let mut events = events.expect("it is allowed").into_inner();
        next_message(&mut events)
            .await
            .expect("it says where it begins");
        let mut watched = watched.expect("it is allowed").into_inner();
        next_message(&mut watched)
            .await
            .expect("it shows what is there");
        let mut read = JoinSet::new();
        read.spawn(async { ("a watch of devices", end(devices).await.0) });
        read.spawn(async { ("a watch of events", end(events).await.0) });
        read.spawn(async { ("a watch of a deployment", end(watched).await.0) });
        let uploading = operator.clone();
        let (taken, took) = oneshot::channel();
        let first = tokio_stream::once(Bytes::from_static(b"x"));
        let rest = tokio_stream::once(()).map(move |()| Bytes::from_static(b"y"));
        // When the second piece is asked for, the first one has been sent.
        let mut taken = Some(taken);
        let rest = rest.map(move |piece| {
            let _ = taken.take().map(|taken| taken.send(()));
            piece
        });
        let pieces = first.chain(rest).chain(tokio_stream::pending());
        read.spawn(async move {
            let begin = UploadBegin {
                size_bytes: 1 << 30,
                ..Default::default()
            };
            let ended = uploading.try_push_stream(begin, pieces).await;
            ("an upload", ended.expect_err("it has no end"))
        });
        took.await.expect("the upload has begun");
        Self {
            read,
            fetch: fetch.expect("it is allowed").into_inner(),
        }
    }

    /// How each call ends.
    async fn ends(mut self) -> Vec<(&'static str, Status)> {
        let mut ends = Vec::new();
        while let Some(ended) = soon("a stream", self.read.join_next()).await {
            ends.push(ended.expect("no panic"));
        }
        ends.push(("a fetch", soon("a fetch", end(self.fetch)).await.0));
        ends
    }
}

/// A large bundle, and a deployment that waits for a device that is away.
async fn prepared(server: &TestServer) -> (String, String) {
    let operator = server.operator();
    let large = operator
        .push(&bundle::noisy("large", "1.0", 24, "true").await)
        .await;
    server.raw_device("edge-1").await;
    let deployment = operator.deploy(&large, &["edge-1"]).await;
    (large.digest, deployment)
}

both_databases![
    open_calls_of_a_token_end_when_it_is_revoked,
    open_calls_of_a_token_end_when_it_expires,
    a_caller_that_revokes_its_own_token_gets_an_answer,
];

async fn open_calls_of_a_token_end_when_it_is_revoked(database: Database) {
    let server = TestServer::start(database).await;
    let (bundle, deployment) = prepared(&server).await;
    let eve = token_holder(&server, 0).await;
    eve.operator.who_am_i().await.expect("the token works");
    let streams = Streams::open(&server, &eve, &bundle, &deployment).await;
    revoke(&server, &eve.token_id).await;
    let refused = eve.operator.who_am_i().await.unwrap_err();
    assert_eq!(
        refused.code(),
        Code::Unauthenticated,
        "though it was looked up a moment ago"
    );
    for (what, status) in streams.ends().await {
        assert_eq!(status.code(), Code::Unauthenticated, "{what}: {status}");
    }
    server.operator().who_am_i().await.expect("others go on");
}

async fn open_calls_of_a_token_end_when_it_expires(database: Database) {
    let server = TestServer::start(database).await;
    let (bundle, deployment) = prepared(&server).await;
    let eve = token_holder(&server, 15).await;
    let streams = Streams::open(&server, &eve, &bundle, &deployment).await;
    for (what, status) in streams.ends().await {
        assert_eq!(status.code(), Code::Unauthenticated, "{what}: {status}");
        assert!(status.message().contains("expired"), "{what}: {status}");
    }
    assert_eq!(
        eve.operator.who_am_i().await.unwrap_err().code(),
        Code::Unauthenticated
    );
}

async fn a_caller_that_revokes_its_own_token_gets_an_answer(database: Database) {
    let server = TestServer::start(database).await;
    let request = CreateOperatorTokenRequest {
        name: "ada".into(),
        role: Role::Admin.into(),
        ..Default::default()
    };
    let made = server
        .operator()
        .access()
        .create_operator_token(request)
        .await
        .unwrap()
        .into_inner();
    let ada = server.operator().with_token(&made.text);
    let request = RevokeOperatorTokenRequest {
        token_id: made.token_id,
        ..Default::default()
    };
    ada.access()
        .revoke_operator_token(request)
        .await
        .expect("it is answered");
    assert_eq!(
        ada.who_am_i().await.unwrap_err().code(),
        Code::Unauthenticated
    );
}
