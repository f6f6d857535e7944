//! One connection of a light agent: TCP from an address of its own, TLS, HTTP/2, and gRPC framing,
//! with nothing in between.

mod calls;
mod connector;

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use h2::client;
use kernex_proto::handshake::ChannelBinding;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tonic::Status;

pub use calls::{Calls, Receiver, Sender};
pub use connector::{Connector, Windows};

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

    /// From now on the server may send nothing more on any stream, also not on those that are open.
    pub fn shut(&mut self) -> Result<(), WireError> {
        Ok(self.driver.set_initial_window_size(0)?)
    }

    /// Runs `work` while the connection moves.
    pub async fn during<T>(
        &mut self,
        work: impl Future<Output = Result<T, WireError>>,
    ) -> Result<T, WireError> {
        let mut work = std::pin::pin!(work);
        let driver = &mut self.driver;
        poll_fn(|context: &mut Context<'_>| {
            // The connection is polled first, because `work` may wait for what it brings.
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
