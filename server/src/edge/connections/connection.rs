//! An accepted connection: its bytes, where it came from, and its place among the connections.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use kernex_proto::handshake::ChannelBinding;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
};
use tokio_rustls::server::TlsStream;

use super::handle::{ConnectionHandle, Presence};
use crate::metrics::GaugeGuard;

/// Bytes that are read from a stranger: a large Hello and what surrounds it. More bytes stay in the
/// network until something on the connection has authenticated. So a stranger costs the same
/// however much it sends.
const STRANGER_BYTES: u32 = 320 * 1024;

/// The connection a request came over. It is in the extensions of the request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    /// Identifies the connection to both ends.
    pub(crate) binding: ChannelBinding,
}

/// An accepted connection. Its place is free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Connection {
    io: Transport,
    presence: Presence,
    peer: Peer,
    /// What is left of [`STRANGER_BYTES`]; `None` once the caller is known.
    left: Option<u32>,
    _place: OwnedSemaphorePermit,
    _counted: GaugeGuard,
}

impl Connection {
    pub(crate) fn peer(&self) -> Peer {
        self.peer
    }

    pub(crate) fn handle(&self) -> &ConnectionHandle {
        self.presence.handle()
    }

    /// A connection that is ready, of a caller who is still a stranger. `counted` counts it until
    /// it is dropped.
    pub(crate) fn new(
        io: Transport,
        presence: Presence,
        peer: Peer,
        place: OwnedSemaphorePermit,
        counted: GaugeGuard,
    ) -> Self {
        Self {
            io,
            presence,
            peer,
            left: Some(STRANGER_BYTES),
            _place: place,
            _counted: counted,
        }
    }

    /// Whether nothing more may be read for now. The task of the connection waits for the handle,
    /// which wakes it once the caller is known.
    fn is_read_out(&mut self) -> bool {
        if self.left.is_some() && !self.presence.handle().is_stranger() {
            self.left = None;
        }
        self.left == Some(0)
    }

    fn count_read(&mut self, bytes: usize) {
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(u32::try_from(bytes).unwrap_or(u32::MAX));
        }
    }
}

#[derive(Debug)]
pub(crate) enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_read_out() {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let read = match &mut self.io {
            Transport::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Transport::Tls(io) => Pin::new(io.as_mut()).poll_read(cx, buf),
        };
        self.count_read(buf.filled().len() - before);
        if read.is_ready() {
            self.presence.handle().note_read();
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Transport::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Transport::Tls(io) => Pin::new(io.as_mut()).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Transport::Plain(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Transport::Tls(io) => Pin::new(io.as_mut()).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Transport::Plain(io) => io.is_write_vectored(),
            Transport::Tls(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Transport::Plain(io) => Pin::new(io).poll_flush(cx),
            Transport::Tls(io) => Pin::new(io.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Transport::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Transport::Tls(io) => Pin::new(io.as_mut()).poll_shutdown(cx),
        }
    }
}
