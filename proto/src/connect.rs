//! How agents and operators reach a control plane: TCP, then TLS 1.3 against its CA and nothing
//! older. Plaintext is for this machine only.
//!
//! A connection is made by [`ControlPlane::dial`] and knows its own binding.
//! [`Connection::into_channel`] speaks HTTP/2 on it and never on another one;
//! [`ControlPlane::channel`] dials again whenever a connection ends.

use std::{error::Error, fmt, future::ready, io, sync::Arc, time::Duration};

use http::Uri;
use hyper_util::{
    client::legacy::connect::{HttpConnector, proxy::Tunnel},
    rt::TokioIo,
};
use rustls::{ClientConfig, client::Resumption, crypto::aws_lc_rs, version::TLS13};
use rustls_pki_types::ServerName;
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::either::Either;
use tonic::transport::{Channel, Endpoint};
use tower::{ServiceExt as _, service_fn};

use self::proxy::{Proxies, Proxy};
use crate::{
    handshake::ChannelBinding,
    trust::{PinnedCa, ServerTrust},
};

pub mod proxy;

pub mod doctor;

const HTTP2: &[u8] = b"h2";

/// TCP, or TLS over it.
pub type Transport = Either<TcpStream, TlsStream<TcpStream>>;

/// An address cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum AddressError {
    #[error("`{0}` is not an address like https://kernex.example.com:7443")]
    Malformed(String),
    #[error("`{0}` begins with https://, but the CA of its control plane is not known")]
    NoCa(String),
    #[error("`{0}` begins with http://, but its control plane has a CA; use https://")]
    NoTls(String),
    #[error("TLS 1.3 is not available")]
    Tls(#[source] rustls::Error),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("TCP failed")]
    Tcp(#[source] Box<dyn Error + Send + Sync>),
    /// The proxy on the way did not lead there.
    #[error("the proxy {0} does not lead there")]
    Proxy(String, #[source] Box<dyn Error + Send + Sync>),
    /// It would be plaintext over a network.
    #[error(
        "`{0}` is not this machine, and plaintext (http://) is for loopback addresses only; use https://"
    )]
    Plaintext(String),
    /// The other side is not trusted, or does not speak TLS 1.3.
    #[error("TLS failed")]
    Tls(#[source] io::Error),
    /// The other side speaks TLS, and something else than HTTP/2 over it.
    #[error("the other side does not speak HTTP/2")]
    NotHttp2,
    #[error("no connection within {0:?}")]
    TooSlow(Duration),
}

/// Where a control plane is, and which CA to trust there. Each connection follows the same rules.
#[derive(Clone)]
pub struct ControlPlane {
    address: String,
    origin: Uri,
    host: String,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    limit: Duration,
    keepalive: Option<Duration>,
    proxy: Option<Proxy>,
}

impl fmt::Debug for ControlPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ControlPlane").field(&self.address).finish()
    }
}

/// A connection on which nothing was sent yet.
#[derive(Debug)]
pub struct Connection {
    pub io: Transport,
    /// What identifies this connection to both ends.
    pub binding: ChannelBinding,
}

impl ControlPlane {
    /// With `trust` the address has to begin with `https://`, without it with `http://`.
    /// Connecting, TLS included, may take `limit`.
    pub fn new(
        address: &str,
        trust: Option<Arc<PinnedCa>>,
        limit: Duration,
    ) -> Result<Self, AddressError> {
        Self::verified_by(address, trust.map(|trust| trust as _), limit)
    }

    /// Like [`Self::new`], with another way to verify the server's certificate.
    pub fn verified_by(
        address: &str,
        trust: Option<ServerTrust>,
        limit: Duration,
    ) -> Result<Self, AddressError> {
        let malformed = || AddressError::Malformed(address.to_owned());
        let origin: Uri = address.parse().map_err(|_| malformed())?;
        // Brackets belong to the address of an IPv6 host, not to its name.
        let host = origin.host().ok_or_else(malformed)?;
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let tls = match (origin.scheme_str(), trust) {
            (Some("https"), Some(trust)) => {
                let name = ServerName::try_from(host.clone()).map_err(|_| malformed())?;
                let config = tls13(trust).map_err(AddressError::Tls)?;
                Some((TlsConnector::from(Arc::new(config)), name))
            }
            (Some("http"), None) => None,
            (Some("https"), None) => return Err(AddressError::NoCa(address.to_owned())),
            (Some("http"), Some(_)) => return Err(AddressError::NoTls(address.to_owned())),
            _ => return Err(malformed()),
        };
        Ok(Self {
            address: address.to_owned(),
            origin,
            host,
            tls,
            limit,
            keepalive: None,
            proxy: None,
        })
    }

    /// Goes through the proxy that these rules put on the way, if there is one. Plaintext never
    /// does: it is for this machine.
    #[must_use]
    pub fn through(mut self, proxies: &Proxies) -> Self {
        self.proxy = proxies.on_the_way_to(&self.origin);
        self
    }

    /// After this much silence, asks the other machine whether it is still there.
    #[must_use]
    pub fn keepalive(mut self, after: Duration) -> Self {
        self.keepalive = Some(after);
        self
    }

    /// The address, as it was given.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Scheme, host and port of calls.
    #[must_use]
    pub fn origin(&self) -> &Uri {
        &self.origin
    }

    /// Makes one connection, TLS included, within the limit that [`Self::new`] was given.
    pub async fn dial(&self) -> Result<Connection, DialError> {
        tokio::time::timeout(self.limit, self.connect())
            .await
            .unwrap_or(Err(DialError::TooSlow(self.limit)))
    }

    async fn connect(&self) -> Result<Connection, DialError> {
        let Some((tls, name)) = &self.tls else {
            return Ok(Connection {
                io: Either::Left(self.connect_here().await?),
                binding: ChannelBinding::PLAINTEXT,
            });
        };
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_keepalive(self.keepalive);
        http.set_connect_timeout(Some(self.limit));
        let stream = match &self.proxy {
            None => http
                .oneshot(self.origin.clone())
                .await
                .map_err(|error| DialError::Tcp(error.into()))?,
            Some(proxy) => self.tunnel(http, proxy).await?,
        };
        let stream = stream.into_inner();
        let stream = tls
            .connect(name.clone(), stream)
            .await
            .map_err(DialError::Tls)?;
        let (_, session) = stream.get_ref();
        if session.alpn_protocol() != Some(HTTP2) {
            return Err(DialError::NotHttp2);
        }
        let exported = session
            .export_keying_material([0; ChannelBinding::LEN], ChannelBinding::LABEL, None)
            .map_err(|error| DialError::Tls(io::Error::other(error)))?;
        Ok(Connection {
            io: Either::Right(stream),
            binding: ChannelBinding::exported(exported),
        })
    }

    /// A connection that a proxy has joined with one to the control plane. The name is looked up by
    /// the proxy.
    async fn tunnel(
        &self,
        http: HttpConnector,
        proxy: &Proxy,
    ) -> Result<TokioIo<TcpStream>, DialError> {
        let mut tunnel = Tunnel::new(proxy.uri(), http);
        if let Some(authorization) = proxy.authorization() {
            tunnel = tunnel.with_auth(authorization);
        }
        let joined = tunnel.oneshot(self.origin.clone()).await;
        joined.map_err(|error| DialError::Proxy(proxy.shown(), error.into()))
    }

    /// Plaintext: only addresses of this machine are tried, whatever the name resolves to.
    async fn connect_here(&self) -> Result<TcpStream, DialError> {
        let failed = |error: io::Error| DialError::Tcp(error.into());
        let port = self.origin.port_u16().unwrap_or(80);
        let found = lookup_host((self.host.as_str(), port))
            .await
            .map_err(failed)?;
        let here: Vec<_> = found
            .filter(|address| address.ip().to_canonical().is_loopback())
            .collect();
        if here.is_empty() {
            return Err(DialError::Plaintext(self.host.clone()));
        }
        let stream = TcpStream::connect(here.as_slice()).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        Ok(stream)
    }

    /// Where calls go, for [`Connection::into_channel`] and [`Self::channel`]; windows and limits
    /// are set on it before.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        // TLS is below tonic, so tonic must not look for it. Calls still carry the real address.
        Endpoint::from_static("http://kernex.invalid").origin(self.origin.clone())
    }

    /// Calls over one connection after another: a new one is dialled when the last one ended.
    pub async fn channel(self, endpoint: &Endpoint) -> Result<Channel, tonic::transport::Error> {
        let dial = move |_: Uri| {
            let this = self.clone();
            async move {
                let connection = this.dial().await?;
                Ok::<_, DialError>(TokioIo::new(connection.io))
            }
        };
        endpoint.connect_with_connector(service_fn(dial)).await
    }
}

impl Connection {
    /// Calls over this connection only; once it ends they fail.
    pub async fn into_channel(
        self,
        endpoint: &Endpoint,
    ) -> Result<Channel, tonic::transport::Error> {
        let mut io = Some(TokioIo::new(self.io));
        let once = move |_: Uri| {
            let over = || io::Error::new(io::ErrorKind::NotConnected, "the connection is over");
            ready(io.take().ok_or_else(over))
        };
        endpoint.connect_with_connector(service_fn(once)).await
    }
}

fn tls13(trust: ServerTrust) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(trust)
        .with_no_client_auth();
    config.alpn_protocols = vec![HTTP2.to_vec()];
    // Each connection verifies its certificate itself.
    config.resumption = Resumption::disabled();
    Ok(config)
}

#[cfg(test)]
mod tests;
