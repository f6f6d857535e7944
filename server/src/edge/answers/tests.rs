use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Buf as _;
use tokio::sync::oneshot;
use tower::{ServiceBuilder, ServiceExt as _, service_fn};

use super::*;
use crate::{
    clock::Clock, edge::auth::Lease, lifecycle::Shutdown, metrics::Transactions,
    revocations::Revocable, store::Store,
};

const GET: &str = "/kernex.v1.DeviceService/GetDevice";
const WATCH: &str = "/kernex.v1.EventService/WatchEvents";
const UPLOAD: &str = "/kernex.v1.BundleService/UploadBundle";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

const ONE: AnswerLimits = AnswerLimits {
    most: SlotLimits {
        streams: 1,
        uploads: 1,
        plans: 1,
    },
    stall: Duration::from_secs(30),
};

struct Around {
    layer: AnswersLayer,
    tasks: Tasks,
    draining: CancellationToken,
    connection: ConnectionHandle,
}

impl Around {
    fn new() -> Self {
        let shutdown = Shutdown::new();
        let tasks = Tasks::new(&shutdown);
        let metrics = Arc::new(Metrics::new(Transactions::default()));
        let draining = shutdown.soft;
        let layer = AnswersLayer::new(ONE, tasks.clone(), metrics, draining.clone());
        Self {
            layer: layer.expect("the descriptors decode"),
            tasks,
            draining,
            connection: ConnectionHandle::default(),
        }
    }

    /// Makes one call on the connection, which `handle` answers.
    async fn call<F>(
        &self,
        path: &str,
        by: Option<EndedBy>,
        handle: impl FnOnce() -> F,
    ) -> Response<Measured>
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let mut handle = Some(handle);
        let service = ServiceBuilder::new()
            .map_response(Measured::wrap)
            .layer(self.layer.clone())
            .service(service_fn(|_: Request<Body>| {
                let handle = handle.take().expect("one call");
                let answer = handle();
                async move { Ok::<_, Infallible>(answer.await) }
            }));
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = path.parse().expect("a path");
        request.extensions_mut().insert(self.connection.clone());
        if let Some(by) = by {
            request.extensions_mut().insert(by);
        }
        let Ok(response) = service.oneshot(request).await;
        response
    }
}

/// A response as tonic makes it of a handler's stream: frames and extensions.
async fn watched() -> Response<Body> {
    let endless = stream::repeat_with(|| Ok::<_, Status>(Bytes::from_static(b"12345")));
    let (_, fed, extensions) = fed(FEW, endless).into_parts();
    let frames = fed.map(|item| {
        Ok::<_, Status>(match item {
            Ok(bytes) => Frame::data(bytes),
            Err(status) => Frame::trailers(trailers(&status)),
        })
    });
    let mut response = Response::new(Body::new(StreamBody::new(frames)));
    *response.extensions_mut() = extensions;
    response
}

async fn single() -> Response<Body> {
    let body = Full::new(Bytes::from_static(b"x"));
    Response::new(Body::new(body.map_err(|never| match never {})))
}

fn code(response: &Response<Measured>) -> Option<&str> {
    response.headers().get("grpc-status")?.to_str().ok()
}

#[tokio::test]
async fn a_stream_that_nothing_feeds_is_refused() {
    let around = Around::new();
    let response = around.call(WATCH, None, single).await;
    assert_eq!(code(&response), Some("13"));
    // A single answer has nothing to feed.
    let response = around.call(GET, None, single).await;
    assert_eq!(code(&response), None);
    let read = response.into_body().collect().await.expect("reads");
    assert_eq!(read.to_bytes(), "x");
    // A path that is no method has nothing to feed either.
    let response = around.call("/no/such", None, single).await;
    assert_eq!(code(&response), None);
}

#[tokio::test]
async fn a_place_is_given_back_with_the_last_byte_of_its_answer() {
    let around = Around::new();
    let mut response = around.call(WATCH, None, watched).await;
    let full = async || {
        let refused = around.call(WATCH, None, watched).await;
        code(&refused) == Some("8")
    };
    assert!(full().await);
    let frame = response.body_mut().frame().await.expect("a frame");
    let mut bytes = frame.expect("no failure").into_data().expect("data");
    drop(response);
    assert!(full().await, "HTTP/2 still holds some of it");
    bytes.advance(5);
    drop(bytes);
    assert!(!full().await);
    let ended = around.tasks.finished(Duration::from_secs(60)).await;
    assert!(ended, "nothing is fed that nobody takes");
}

#[tokio::test]
async fn a_call_without_a_stream_keeps_its_place_until_its_answer_is_taken() {
    let around = Around::new();
    let (tell, told) = oneshot::channel::<()>();
    let first = around.call(UPLOAD, None, || async {
        told.await.expect("somebody tells");
        single().await
    });
    let second = async {
        let refused = around.call(UPLOAD, None, single).await;
        assert_eq!(code(&refused), Some("8"), "the first is under way");
        tell.send(()).expect("it waits");
    };
    let (first, ()) = tokio::join!(first, second);
    let refused = around.call(UPLOAD, None, single).await;
    assert_eq!(code(&refused), Some("8"), "its answer was not read");
    drop(first);
    let third = around.call(UPLOAD, None, single).await;
    assert_eq!(code(&third), None);
}

#[tokio::test]
async fn a_signal_answers_a_call_that_waits_and_ends_a_stream_that_runs() {
    let signal = CancellationToken::new();
    let by = EndedBy {
        signal: signal.clone(),
        status: Status::unauthenticated("revoked"),
        lease: None,
    };
    let around = Around::new();
    let mut stream = around.call(WATCH, Some(by.clone()), watched).await;
    assert_eq!(code(&stream), None);
    let waits = around.call(UPLOAD, Some(by), std::future::pending::<Response<Body>>);
    let (waited, ()) = tokio::join!(waits, async {
        tokio::task::yield_now().await;
        signal.cancel();
    });
    assert_eq!(code(&waited), Some("16"));
    loop {
        let frame = stream.body_mut().frame().await.expect("a frame");
        if let Ok(trailers) = frame.expect("no failure").into_trailers() {
            assert_eq!(trailers["grpc-status"], "16");
            break;
        }
    }
    assert!(around.tasks.finished(Duration::from_secs(60)).await);
}

#[tokio::test]
async fn a_handler_may_name_a_signal_in_its_answer_too() {
    let signal = CancellationToken::new();
    let by = EndedBy {
        signal: signal.clone(),
        status: Status::aborted("the session ended"),
        lease: None,
    };
    let around = Around::new();
    let named = || async {
        let mut response = watched().await;
        response.extensions_mut().insert(by);
        response
    };
    let mut stream = around.call(WATCH, None, named).await;
    signal.cancel();
    assert!(around.tasks.finished(Duration::from_secs(60)).await);
    let frame = stream.body_mut().frame().await.expect("a frame");
    let trailers = frame.expect("no failure").into_trailers().expect("its end");
    assert_eq!(trailers["grpc-status"], "10");
}

#[tokio::test]
async fn a_stream_of_a_library_is_bounded_too_and_ends_when_the_server_stops() {
    let around = Around::new();
    let quiet = || async {
        let never = stream::pending::<Result<Frame<Bytes>, Status>>();
        Response::new(Body::new(StreamBody::new(never)))
    };
    let mut response = around.call(REFLECTION, None, quiet).await;
    let refused = around.call(REFLECTION, None, quiet).await;
    assert_eq!(code(&refused), Some("8"));
    around.draining.cancel();
    let frame = response.body_mut().frame().await.expect("a frame");
    let trailers = frame.expect("no failure").into_trailers().expect("its end");
    assert_eq!(trailers["grpc-status"], "14");
}

#[tokio::test]
async fn a_stream_that_nobody_reads_ends_when_its_token_expires() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite://{}", folder.path().join("test.db").display());
    let clock = Clock::system();
    let store = Store::open(&url, clock.clone()).await.expect("opens");
    let token = Revocable::Token(kernex_proto::ids::TokenId::generate());
    let hold = store.revocations().hold(token);
    let expires_at = clock.now().plus(Duration::from_secs(3600));
    let lease = Lease::new(hold, expires_at, store);
    let around = Around::new();
    let mut response = around.call(WATCH, Some(lease.ended_by()), watched).await;
    tokio::time::pause();
    let ended = around.tasks.finished(Duration::from_secs(300)).await;
    assert!(!ended, "the token has most of an hour left");
    clock.advance(Duration::from_secs(3600));
    let ended = around.tasks.finished(Duration::from_secs(60)).await;
    assert!(ended, "nothing feeds it, though nobody has read a byte");
    let frame = response.body_mut().frame().await.expect("a frame");
    let trailers = frame.expect("no failure").into_trailers().expect("its end");
    assert_eq!(trailers["grpc-status"], "16");
}
