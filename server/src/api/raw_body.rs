//! Sends the bytes of bundles as gRPC messages without copying them.
//!
//! tonic's encoder copies each message into one buffer. For a message of 256 KiB and a few bytes
//! around it, that costs more than everything else in a download. So the body is built here: the
//! head of the frame and the key of the field, and then the piece as it was read. tonic still does
//! the rest: requests, authorisation, refusals and headers. A handler returns [`answer`], and
//! [`RawBodyService`] replaces the body that tonic made. The pieces are fed like the messages of
//! any stream, one ahead of the peer.

use std::{
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
};

use parking_lot::Mutex;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::{
    Stream, StreamExt as _, TryFutureExt as _, TryStreamExt as _,
    future::MapOk,
    stream::{self, BoxStream},
};
use http::Request;
use http_body_util::StreamBody;
use hyper::body::Frame;
use prometheus_client::metrics::counter::Counter;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use tonic::{Response, Status, body::Body, server::NamedService};
use tower::Service;

use crate::{
    edge::answers::{FEW, channel, trailers},
    error::defect,
};

/// The field of `DownloadBundleResponse` and `FetchBundleResponse` that holds the bytes.
const CHUNK: u32 = 1;
/// Compression flag and length before a message.
const GRPC_HEAD: usize = 5;

/// The stream that tonic gets in its place; it is never polled.
pub(super) type NeverPolled<T> = BoxStream<'static, Result<T, Status>>;

/// A body that waits for [`RawBodyService`] in the extensions of a response. Those have to be
/// cloned, which a body cannot be.
#[derive(Clone)]
struct RawBody(Arc<Mutex<Option<Body>>>);

/// An answer in pieces: each is a message whose one field is the bytes. A failure becomes the
/// status of the call. `sent` counts the bytes.
pub(super) fn answer<T, E>(
    pieces: impl Stream<Item = Result<Bytes, E>> + Send + 'static,
    sent: Counter,
) -> Response<NeverPolled<T>>
where
    T: Send + 'static,
    E: Into<Status> + 'static,
{
    let (fed, feeder) = channel(FEW, pieces.map_err(Into::into));
    let pieces = fed.inspect_ok(move |piece| {
        sent.inc_by(piece.len() as u64);
    });
    let carried = RawBody(Arc::new(Mutex::new(Some(body(pieces)))));
    let nobody = defect("the service is not behind `RawBodyService`");
    let mut response = Response::new(stream::iter([Err(nobody)]).boxed());
    response.extensions_mut().insert(carried);
    response.extensions_mut().insert(feeder);
    response
}

fn body(pieces: impl Stream<Item = Result<Bytes, Status>> + Send + 'static) -> Body {
    Body::new(StreamBody::new(async_stream::stream! {
        let mut end = Status::ok("");
        {
            let mut pieces = pin!(pieces);
            while let Some(piece) = pieces.next().await {
                match piece {
                    Ok(piece) => {
                        yield Ok::<_, Status>(Frame::data(head(piece.len())));
                        if !piece.is_empty() {
                            yield Ok(Frame::data(piece));
                        }
                    }
                    Err(status) => {
                        end = status;
                        break;
                    }
                }
            }
        }
        yield Ok(Frame::trailers(trailers(&end)));
    }))
}

/// The bytes in front of a piece: flag and length of the message, key and length of the field. An
/// empty field is left out.
fn head(length: usize) -> Bytes {
    let field = match length as u64 {
        0 => 0,
        length => 1 + encoded_len_varint(length) + length as usize,
    };
    let mut head = BytesMut::with_capacity(GRPC_HEAD + 1 + 10);
    head.put_u8(0);
    head.put_u32(u32::try_from(field).unwrap_or(u32::MAX));
    if length > 0 {
        encode_key(CHUNK, WireType::LengthDelimited, &mut head);
        encode_varint(length as u64, &mut head);
    }
    head.freeze()
}

/// A service whose answers may be [`answer`]s.
#[derive(Debug, Clone)]
pub(crate) struct RawBodyService<S>(pub(super) S);

impl<S: NamedService> NamedService for RawBodyService<S> {
    const NAME: &'static str = S::NAME;
}

type HttpResponse = http::Response<Body>;

impl<S> Service<Request<Body>> for RawBodyService<S>
where
    S: Service<Request<Body>, Response = HttpResponse>,
{
    type Response = HttpResponse;
    type Error = S::Error;
    type Future = MapOk<S::Future, fn(HttpResponse) -> HttpResponse>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.0.call(request).map_ok(with_raw_body)
    }
}

fn with_raw_body(mut response: HttpResponse) -> HttpResponse {
    if let Some(RawBody(carried)) = response.extensions_mut().remove()
        && let Some(body) = carried.lock().take()
    {
        *response.body_mut() = body;
    }
    response
}

#[cfg(test)]
mod tests;
