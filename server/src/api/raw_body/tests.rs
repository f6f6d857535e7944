//! Read back by the generated client, as any caller does.

use std::convert::Infallible;

use http_body_util::BodyExt as _;
use kernex_proto::{
    CHUNK_SIZE,
    error::Reason,
    v1::{
        DownloadBundleRequest, DownloadBundleResponse, FetchBundleResponse,
        agent_service_client::AgentServiceClient,
    },
};
use prost::Message as _;
use tokio::task::JoinSet;
use tonic::Code;
use tonic_types::StatusExt as _;
use tower::{ServiceExt as _, service_fn};

use super::*;
use crate::{edge::answers::Feeder, error::slow_reader};

type Piece = Result<Bytes, Status>;

/// What tonic makes of the handler's answer, and what `RawBodyService` makes of that.
fn served(pieces: Vec<Piece>, feeders: &mut JoinSet<()>) -> HttpResponse {
    let (_, message, extensions) =
        answer::<DownloadBundleResponse, _>(stream::iter(pieces), Counter::default()).into_parts();
    drop(message);
    let feeder = extensions.get::<Feeder>().expect("it is fed");
    let (pump, _end) = feeder.take().expect("nobody took it");
    feeders.spawn(pump);
    let mut response = http::Response::new(Body::empty());
    *response.extensions_mut() = extensions;
    response
}

async fn read(pieces: Vec<Piece>) -> (Vec<Bytes>, Result<(), Status>) {
    let mut pieces = Some(pieces);
    let mut feeders = JoinSet::new();
    let inner = service_fn(|_: Request<Body>| {
        let pieces = pieces.take().expect("one call");
        std::future::ready(Ok::<_, Infallible>(served(pieces, &mut feeders)))
    });
    let mut client = AgentServiceClient::new(RawBodyService(inner));
    let answer = client
        .download_bundle(DownloadBundleRequest::default())
        .await;
    let mut messages = answer.expect("headers come first").into_inner();
    let mut read = Vec::new();
    loop {
        match messages.message().await {
            Ok(Some(message)) => read.push(message.chunk),
            Ok(None) => return (read, Ok(())),
            Err(status) => return (read, Err(status)),
        }
    }
}

#[tokio::test]
async fn the_generated_client_reads_every_piece() {
    let pieces: Vec<Bytes> = [1, 127, 128, 0, 16_384, CHUNK_SIZE]
        .map(|length| Bytes::from(vec![length as u8; length]))
        .into();
    let (messages, end) = read(pieces.iter().cloned().map(Ok).collect()).await;
    end.expect("it ends well");
    assert!(messages == pieces, "other bytes came");
    let (messages, end) = read(Vec::new()).await;
    assert!(messages.is_empty() && end.is_ok());
}

#[tokio::test]
async fn a_failure_after_the_first_piece_is_the_status_of_the_call() {
    let failure = slow_reader("it took nothing for 100 % of the time".into());
    let pieces = vec![
        Ok(Bytes::from_static(b"one")),
        Err(failure.clone()),
        Ok(Bytes::from_static(b"two")),
    ];
    let (messages, end) = read(pieces).await;
    assert_eq!(messages, [Bytes::from_static(b"one")]);
    let end = end.expect_err("it failed");
    assert_eq!(
        (end.code(), end.message()),
        (failure.code(), failure.message())
    );
    let reason = end.get_details_error_info().map(|info| info.reason);
    assert_eq!(reason.as_deref(), Some(Reason::SlowConsumer.as_str()));
}

#[tokio::test]
async fn bytes_on_the_wire_are_what_tonic_would_write_and_the_piece_is_not_copied() {
    for length in [0, 1, 127, 128, CHUNK_SIZE] {
        let piece = Bytes::from(vec![9; length]);
        let expected = [
            DownloadBundleResponse {
                chunk: piece.clone(),
            }
            .encode_to_vec(),
            FetchBundleResponse {
                chunk: piece.clone(),
            }
            .encode_to_vec(),
        ];
        let mut body = body(stream::iter([Ok(piece.clone())]));
        let mut wire = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.expect("no failure").into_data() else {
                break;
            };
            if data.len() > GRPC_HEAD + 11 {
                assert_eq!(data.as_ptr(), piece.as_ptr(), "a copy was made");
            }
            wire.extend(data);
        }
        for message in expected {
            assert_eq!(
                wire[..GRPC_HEAD],
                [&[0][..], &(message.len() as u32).to_be_bytes()].concat()
            );
            assert_eq!(wire[GRPC_HEAD..], message);
        }
    }
}

#[tokio::test]
async fn a_service_that_is_not_carrying_fails_loudly() {
    let mut messages =
        answer::<DownloadBundleResponse, Status>(stream::iter([]), Counter::default()).into_inner();
    let said = messages.next().await.expect("an item").expect_err("fails");
    assert_eq!(said.code(), Code::Internal);
}

#[tokio::test]
async fn other_answers_pass() {
    let inner = service_fn(|_: Request<Body>| {
        std::future::ready(Ok::<_, Infallible>(
            Status::not_found("gone").into_http::<Body>(),
        ))
    });
    let response = RawBodyService(inner)
        .oneshot(Request::new(Body::empty()))
        .await;
    let response = response.expect("is answered");
    assert_eq!(response.headers()[Status::GRPC_STATUS], "5");
}
