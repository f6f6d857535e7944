//! One connection of a light agent: TCP from an address of its own, TLS, HTTP/2, and gRPC framing,
//! with nothing in between.

use std::{
    collections::VecDeque,
    future::poll_fn,
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use h2::{RecvStream, SendStream, client};
use http::{HeaderMap, Method, Request, Version};
use kernex_proto::handshake::ChannelBinding;
use prost::Message;
use rustls::{ClientConfig, RootCertStore, client::Resumption};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::Status;

/// First address agents connect from; each has one of its own, so that ports never run out.
const FIRST_SOURCE: u32 = u32::from_be_bytes([127, 1, 0, 1]);

const PREFIX: usize = 5;

type Io = TlsStream<TcpStream>;
type Driver = client::Connection<Io, Bytes>;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// A fault of TCP or TLS.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// A fault of HTTP/2.
    #[error("HTTP/2 failed")]
    Http(#[from] h2::Error),
    /// The server ended the call with a status.
    #[error("the server ended the call")]
    Status(Box<Status>),
    /// The bytes are no gRPC message.
    #[error("what came is not gRPC: {0}")]
    NotGrpc(&'static str),
}

impl From<Status> for WireError {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

/// How much a connection lets the server send ahead.
#[derive(Debug, Clone, Copy)]
pub struct Windows {
    /// Of one stream.
    pub stream: u32,
    /// Of the connection.
    pub connection: u32,
    /// Largest frame.
    pub frame: u32,
}

impl Windows {
    /// HTTP/2's own defaults: enough for a session.
    pub const QUIET: Self = Self {
        stream: 65_535,
        connection: 65_535,
        frame: 16_384,
    };

    /// Large windows, for downloads.
    pub const BULK: Self = Self {
        stream: 4 << 20,
        connection: 8 << 20,
        frame: 256 << 10,
    };
}

/// Source address of connections.
#[derive(Debug, Clone, Copy)]
enum Origin {
    /// Each agent from an address of its own.
    Each,
    /// All from this one, as behind a NAT.
    One(Ipv4Addr),
    /// All from a proxy, which names this address as the caller's, or nobody's for what it asks by
    /// itself.
    Proxy(Ipv4Addr, Option<SocketAddrV4>),
}

/// Makes connections to one server.
#[derive(Debug, Clone)]
pub struct Connector {
    server: SocketAddr,
    origin: Origin,
    tls: Arc<ClientConfig>,
    name: ServerName<'static>,
    windows: Windows,
}

impl Connector {
    /// For a server on this machine whose certificate comes from this CA.
    ///
    /// # Panics
    /// When `ca_pem` holds no certificate.
    #[must_use]
    pub fn new(port: u16, ca_pem: &[u8]) -> Self {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca_pem) {
            let certificate = certificate.expect("the CA is a certificate");
            roots.add(certificate).expect("the CA can be trusted");
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider knows TLS 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        // No resumption: a fleet that reconnects after a restart makes full handshakes.
        tls.resumption = Resumption::disabled();
        Self {
            server: (Ipv4Addr::LOCALHOST, port).into(),
            origin: Origin::Each,
            tls: Arc::new(tls),
            name: ServerName::IpAddress(Ipv4Addr::LOCALHOST.into()),
            windows: Windows::QUIET,
        }
    }

    /// The same server with other windows.
    #[must_use]
    pub fn with(&self, windows: Windows) -> Self {
        Self {
            windows,
            ..self.clone()
        }
    }

    /// The same server, from one address for all agents.
    #[must_use]
    pub fn behind(&self, address: Ipv4Addr) -> Self {
        Self {
            origin: Origin::One(address),
            ..self.clone()
        }
    }

    /// The same server, through a proxy at one address that sends the PROXY protocol and names a
    /// caller, or nobody.
    #[must_use]
    pub fn proxied(&self, proxy: Ipv4Addr, caller: Option<SocketAddrV4>) -> Self {
        Self {
            origin: Origin::Proxy(proxy, caller),
            ..self.clone()
        }
    }

    /// A TCP connection of agent `number`, with what a proxy says first.
    async fn dial(&self, number: usize) -> Result<TcpStream, WireError> {
        let socket = TcpSocket::new_v4()?;
        let number = u32::try_from(number).map_err(io::Error::other)?;
        let source = match self.origin {
            Origin::Each => Ipv4Addr::from(FIRST_SOURCE + number),
            Origin::One(address) | Origin::Proxy(address, _) => address,
        };
        socket.bind((source, 0).into())?;
        let mut stream = socket.connect(self.server).await?;
        stream.set_nodelay(true)?;
        if let Origin::Proxy(_, caller) = self.origin {
            stream.write_all(&proxy_header(caller)).await?;
        }
        Ok(stream)
    }

    /// Connects as agent `number`, up to TLS.
    pub async fn tls(&self, number: usize) -> Result<TlsStream<TcpStream>, WireError> {
        let stream = self.dial(number).await?;
        let tls = TlsConnector::from(Arc::clone(&self.tls));
        Ok(tls.connect(self.name.clone(), stream).await?)
    }

    /// Connects as agent `number`.
    pub async fn connect(&self, number: usize) -> Result<Wire, WireError> {
        let stream = self.tls(number).await?;
        let bytes = [0; ChannelBinding::LEN];
        let session = stream.get_ref().1;
        let exported = session.export_keying_material(bytes, ChannelBinding::LABEL, None);
        let binding = ChannelBinding::exported(exported.map_err(io::Error::other)?);
        let (calls, driver) = client::Builder::new()
            .initial_window_size(self.windows.stream)
            .initial_connection_window_size(self.windows.connection)
            .max_frame_size(self.windows.frame)
            .handshake(stream)
            .await?;
        Ok(Wire {
            calls: Calls(calls),
            binding,
            driver,
        })
    }
}

/// What a proxy says before all else, in version 2 of the protocol.
fn proxy_header(caller: Option<SocketAddrV4>) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    let Some(caller) = caller else {
        // LOCAL, and no addresses.
        header.extend([0x20, 0, 0, 0]);
        return header;
    };
    // PROXY, TCP over IPv4, twelve bytes of addresses and ports.
    header.extend([0x21, 0x11, 0, 12]);
    header.extend(caller.ip().octets());
    header.extend(Ipv4Addr::LOCALHOST.octets());
    header.extend(caller.port().to_be_bytes());
    header.extend(7443_u16.to_be_bytes());
    header
}

/// A connection. It moves only while [`Self::drive`] is polled.
#[derive(Debug)]
pub struct Wire {
    /// Opens calls on it.
    pub calls: Calls,
    /// The connection, as both ends see it.
    pub binding: ChannelBinding,
    driver: Driver,
}

impl Wire {
    /// Polls the connection; returns when it is over.
    pub async fn drive(&mut self) -> Result<(), WireError> {
        Ok(Pin::new(&mut self.driver).await?)
    }

    /// Runs `work` while the connection moves.
    pub async fn during<T>(
        &mut self,
        work: impl Future<Output = Result<T, WireError>>,
    ) -> Result<T, WireError> {
        let mut work = std::pin::pin!(work);
        let driver = &mut self.driver;
        poll_fn(|context: &mut Context<'_>| {
            // The connection goes first: what it brings may be what `work` waits for.
            let over = Pin::new(&mut *driver).poll(context);
            if let Poll::Ready(result) = work.as_mut().poll(context) {
                return Poll::Ready(result);
            }
            match over {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Ok(())) => Poll::Ready(Err(WireError::NotGrpc("it ended"))),
                Poll::Ready(Err(error)) => Poll::Ready(Err(error.into())),
            }
        })
        .await
    }
}

/// Opens calls on a connection.
#[derive(Debug, Clone)]
pub struct Calls(client::SendRequest<Bytes>);

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
