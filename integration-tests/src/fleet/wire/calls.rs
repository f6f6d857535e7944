//! Calls on a connection: gRPC messages, framed by hand.

use std::{collections::VecDeque, future::poll_fn, pin::Pin};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use h2::{RecvStream, SendStream, client};
use http::{HeaderMap, Method, Request, Version};
use prost::Message;
use tonic::Status;

use super::WireError;

const PREFIX: usize = 5;

/// Opens calls on a connection.
#[derive(Debug, Clone)]
pub struct Calls(pub(super) client::SendRequest<Bytes>);

impl Calls {
    /// Opens a call; the answer's headers are not waited for.
    pub async fn open(
        &self,
        path: &'static str,
        metadata: &[(&'static str, String)],
    ) -> Result<(Sender, Receiver), WireError> {
        let mut request = Request::builder()
            .method(Method::POST)
            .version(Version::HTTP_2)
            .uri(format!("https://127.0.0.1{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in metadata {
            request = request.header(*name, value);
        }
        let request = request
            .body(())
            .map_err(|_| WireError::NotGrpc("a metadata value"))?;
        let mut calls = self.0.clone().ready().await?;
        let (answer, sender) = calls.send_request(request, false)?;
        Ok((Sender(sender), Receiver::new(answer)))
    }

    /// Fetches a file that is no gRPC and says how many bytes it had.
    pub async fn get(&self, path: &str) -> Result<usize, WireError> {
        let request = Request::builder()
            .version(Version::HTTP_2)
            .uri(format!("https://127.0.0.1/{path}"))
            .body(())
            .map_err(|_| WireError::NotGrpc("the path"))?;
        let mut calls = self.0.clone().ready().await?;
        let (answer, _) = calls.send_request(request, true)?;
        let answer = answer.await?;
        if !answer.status().is_success() {
            return Err(WireError::NotGrpc("the file is not there"));
        }
        let (mut body, mut total) = (answer.into_body(), 0);
        while let Some(piece) = body.data().await {
            let piece = piece?;
            body.flow_control().release_capacity(piece.len())?;
            total += piece.len();
        }
        Ok(total)
    }
}

/// The agent's half of a call.
#[derive(Debug)]
pub struct Sender(SendStream<Bytes>);

impl Sender {
    pub fn send(&mut self, message: &impl Message) -> Result<(), WireError> {
        let mut frame = head(message.encoded_len())?;
        message
            .encode(&mut frame)
            .map_err(|_| WireError::NotGrpc("it does not fit"))?;
        Ok(self.0.send_data(frame.freeze(), false)?)
    }

    /// Sends a message that is encoded already.
    pub fn send_bytes(&mut self, message: &[u8]) -> Result<(), WireError> {
        let mut frame = head(message.len())?;
        frame.put_slice(message);
        Ok(self.0.send_data(frame.freeze(), false)?)
    }

    /// Sends bytes as they are, framing and all.
    pub fn send_raw(&mut self, bytes: impl Into<Bytes>) -> Result<(), WireError> {
        Ok(self.0.send_data(bytes.into(), false)?)
    }

    /// Sends whatever bytes, once the server makes room for them.
    pub async fn bytes(&mut self, mut bytes: Bytes) -> Result<(), WireError> {
        while !bytes.is_empty() {
            self.0.reserve_capacity(bytes.len());
            let room = poll_fn(|context| self.0.poll_capacity(context)).await;
            let room = room.ok_or(WireError::NotGrpc("the call is over"))??;
            self.0
                .send_data(bytes.split_to(room.min(bytes.len())), false)?;
        }
        Ok(())
    }

    /// Says that nothing more comes.
    pub fn finish(&mut self) -> Result<(), WireError> {
        Ok(self.0.send_data(Bytes::new(), true)?)
    }
}

/// What comes before a message of this length, with room for it.
fn head(length: usize) -> Result<BytesMut, WireError> {
    let mut frame = BytesMut::with_capacity(PREFIX + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).map_err(|_| WireError::NotGrpc("too long"))?);
    Ok(frame)
}

/// The server's half of a call.
#[derive(Debug)]
pub struct Receiver {
    answer: Option<client::ResponseFuture>,
    body: Option<RecvStream>,
    pieces: VecDeque<Bytes>,
    held: usize,
}

impl Receiver {
    fn new(answer: client::ResponseFuture) -> Self {
        Self {
            answer: Some(answer),
            body: None,
            pieces: VecDeque::new(),
            held: 0,
        }
    }

    /// The next message; `None` when the call ended well. Cancel-safe.
    pub async fn next<M: Message + Default>(&mut self) -> Result<Option<M>, WireError> {
        loop {
            if let Some(frame) = self.frame()? {
                let message = M::decode(frame);
                return message
                    .map(Some)
                    .map_err(|_| WireError::NotGrpc("a message that does not decode"));
            }
            if !self.more().await? {
                return Ok(None);
            }
        }
    }

    /// Takes whatever bytes come next, framing and all, and says how many; 0 when the call ended
    /// well. Cancel-safe.
    pub async fn skip(&mut self) -> Result<usize, WireError> {
        if self.held == 0 && !self.more().await? {
            return Ok(0);
        }
        self.pieces.clear();
        Ok(std::mem::take(&mut self.held))
    }

    /// Waits for bytes; false at the good end of the call.
    async fn more(&mut self) -> Result<bool, WireError> {
        if let Some(answer) = &mut self.answer {
            let answer = Pin::new(answer).await?;
            self.answer = None;
            let (head, body) = answer.into_parts();
            if let Some(status) = ended(&head.headers) {
                return status.map(|()| false);
            }
            self.body = Some(body);
        }
        let body = self.body.as_mut().ok_or(WireError::NotGrpc("no answer"))?;
        match body.data().await {
            Some(piece) => {
                let piece = piece?;
                body.flow_control().release_capacity(piece.len())?;
                self.held += piece.len();
                self.pieces.push_back(piece);
                Ok(true)
            }
            None => {
                let trailers = body.trailers().await?.unwrap_or_default();
                ended(&trailers)
                    .unwrap_or(Err(WireError::NotGrpc("no status")))
                    .map(|()| false)
            }
        }
    }

    /// Takes one whole message out of what came.
    fn frame(&mut self) -> Result<Option<Bytes>, WireError> {
        if self.held < PREFIX {
            return Ok(None);
        }
        let mut head = [0; PREFIX];
        let mut at = 0;
        for byte in self.pieces.iter().flat_map(|piece| piece.iter()) {
            head[at] = *byte;
            at += 1;
            if at == PREFIX {
                break;
            }
        }
        if head[0] != 0 {
            return Err(WireError::NotGrpc("a compressed message nobody asked for"));
        }
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if self.held < PREFIX + length {
            return Ok(None);
        }
        self.take(PREFIX);
        Ok(Some(self.take(length)))
    }

    /// Takes bytes that are here; they are copied only when they came in several pieces.
    fn take(&mut self, length: usize) -> Bytes {
        self.held -= length;
        let mut whole = BytesMut::new();
        while let Some(first) = self.pieces.front_mut() {
            let missing = length - whole.len();
            if first.len() > missing {
                let part = first.split_to(missing);
                if whole.is_empty() {
                    return part;
                }
                whole.put(part);
                return whole.freeze();
            }
            let Some(piece) = self.pieces.pop_front() else {
                break;
            };
            if whole.is_empty() && piece.len() == length {
                return piece;
            }
            whole.reserve(length - whole.len());
            whole.put(piece);
            if whole.len() == length {
                break;
            }
        }
        debug_assert_eq!(whole.remaining(), length);
        whole.freeze()
    }
}

/// The status in headers or trailers, if the call ended with them.
fn ended(headers: &HeaderMap) -> Option<Result<(), WireError>> {
    let status = Status::from_header_map(headers)?;
    Some(match status.code() {
        tonic::Code::Ok => Ok(()),
        _ => Err(status.into()),
    })
}
