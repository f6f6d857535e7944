//! What attackers know: where the server is, a viewer's token, an operator's, and a device's key.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;

use kernex_proto::v1::{CreateOperatorTokenRequest, Role};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::honest::HonestFleet;
use crate::{
    TestServer,
    chaos::Failure,
    fleet::{Connector, Windows, Wire, WireError},
    raw_agent::RawIdentity,
};

/// All attackers come from one address, far from those of the fleet.
const ADDRESS: usize = 500_000;

/// The server under attack and the credentials of the attackers.
pub(super) struct Target {
    pub(super) server: Arc<TestServer>,
    /// Whether attacks have their whole strength.
    pub(super) whole: bool,
    pub(super) viewer: String,
    pub(super) operator: String,
    /// A device of its own: what it says of itself is not true.
    pub(super) liar: RawIdentity,
    rogue: Mutex<RawIdentity>,
    connector: Connector,
    done: AtomicUsize,
}

impl Target {
    pub(super) async fn new(honest: &HonestFleet, whole: bool) -> Result<Self, Failure> {
        let server = Arc::clone(&honest.server);
        Ok(Self {
            viewer: token(&server, "hostile-viewer", Role::Viewer).await?,
            operator: token(&server, "hostile-operator", Role::Operator).await?,
            liar: server.raw_device("hostile-liar").await,
            rogue: Mutex::new(server.raw_device("hostile-device").await),
            connector: honest.connector.clone(),
            done: AtomicUsize::new(0),
            server,
            whole,
        })
    }

    /// `whole` at full strength, a tenth of it otherwise.
    pub(super) fn many(&self, whole: usize) -> usize {
        if self.whole {
            whole
        } else {
            whole.div_ceil(10)
        }
    }

    /// Counts one action of an attacker.
    pub(super) fn did(&self) {
        self.done.fetch_add(1, Relaxed);
    }

    /// Actions since the last call.
    pub(super) fn done(&self) -> usize {
        self.done.swap(0, Relaxed)
    }

    /// The device whose key the attacker has.
    pub(super) fn rogue(&self) -> RawIdentity {
        let rogue = self.rogue.lock();
        rogue.clone()
    }

    /// It remembers the sessions it has opened.
    pub(super) fn keep_rogue(&self, rogue: RawIdentity) {
        *self.rogue.lock() = rogue;
    }

    /// A plain TCP connection.
    pub(super) async fn tcp(&self) -> std::io::Result<TcpStream> {
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.server.port())).await
    }

    /// A TLS connection on which nothing was sent yet.
    pub(super) async fn tls(&self) -> Result<TlsStream<TcpStream>, WireError> {
        self.connector.tls(ADDRESS).await
    }

    /// An HTTP/2 connection.
    pub(super) async fn wire(&self, stream_window: u32) -> Result<Wire, WireError> {
        let windows = Windows {
            stream: stream_window,
            ..Windows::QUIET
        };
        self.connector.with(windows).connect(ADDRESS).await
    }
}

async fn token(server: &TestServer, name: &str, role: Role) -> Result<String, Failure> {
    let request = CreateOperatorTokenRequest {
        name: name.to_owned(),
        role: role.into(),
        ttl_seconds: 86_400,
        ..Default::default()
    };
    let made = server
        .operator()
        .access()
        .create_operator_token(request)
        .await;
    let made = made.map_err(|status| Failure::new(format!("no token for {name}: {status}")))?;
    Ok(made.into_inner().text)
}
