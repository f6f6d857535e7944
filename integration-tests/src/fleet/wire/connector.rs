//! Where connections of light agents come from, and the windows they grant.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::Arc,
};

use h2::client;
use kernex_proto::handshake::ChannelBinding;
use rustls::{ClientConfig, RootCertStore, client::Resumption};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Calls, Wire, WireError};
use crate::TestServer;

/// First address agents connect from; each has one of its own, so that ports never run out.
const FIRST_SOURCE: u32 = u32::from_be_bytes([127, 1, 0, 1]);

/// How much a connection lets the server send ahead.
#[derive(Debug, Clone, Copy)]
pub struct Windows {
    pub stream: u32,
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
    /// For a server under test.
    ///
    /// # Panics
    /// When its CA cannot be read.
    #[must_use]
    pub fn to(server: &TestServer) -> Self {
        let ca = fs::read(server.data().join("ca.pem")).expect("the server made its CA");
        Self::new(server.port(), &ca)
    }

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
