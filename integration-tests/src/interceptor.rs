//! A TLS interceptor with the key of the CA: it ends TLS on both sides and passes on every byte.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use kernex_proto::{
    connect::ControlPlane,
    trust::{Dates, PinnedCa},
};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair};
use rustls::{ServerConfig, version::TLS13};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use crate::server::TestServer;

const PATIENCE: Duration = Duration::from_secs(60);

/// Listens on a port of its own until it is dropped.
#[derive(Debug)]
pub struct Interceptor {
    address: SocketAddr,
    passed: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

impl Interceptor {
    /// Begins, in front of a server.
    ///
    /// # Panics
    /// When the server's CA cannot be used, or no port is free.
    pub async fn before(server: &TestServer) -> Self {
        let read = |file| std::fs::read_to_string(server.data().join(file));
        let ca = read("ca.pem").expect("the server has a CA");
        let ca_key = read("ca.key").expect("the CA has a key");
        let acceptor = TlsAcceptor::from(Arc::new(leaf(&ca, &ca_key)));
        let trust = PinnedCa::from_pem(&ca, Dates::Count);
        let behind = ControlPlane::new(&server.url(), trust, PATIENCE).expect("a good address");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("a port is free");
        let address = listener.local_addr().expect("it has an address");
        let passed = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        let counter = Arc::clone(&passed);
        tasks.spawn(async move {
            let mut links = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let link = pass(acceptor.clone(), behind.clone(), stream, counter.clone());
                links.spawn(link);
                while links.try_join_next().is_some() {}
            }
        });
        Self {
            address,
            passed,
            _tasks: tasks,
        }
    }

    /// Its URL for agents.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Connections that were passed on so far, both ends secured.
    #[must_use]
    pub fn passed(&self) -> u64 {
        self.passed.load(Relaxed)
    }
}

async fn pass(
    acceptor: TlsAcceptor,
    behind: ControlPlane,
    stream: TcpStream,
    passed: Arc<AtomicU64>,
) {
    let (Ok(mut front), Ok(back)) = (acceptor.accept(stream).await, behind.dial().await) else {
        return;
    };
    passed.fetch_add(1, Relaxed);
    let mut back = back.io;
    let _ = copy_bidirectional(&mut front, &mut back).await;
}

/// A server certificate signed by the CA, so that every agent accepts it.
fn leaf(ca: &str, ca_key: &str) -> ServerConfig {
    let ca_key = KeyPair::from_pem(ca_key).expect("a key");
    let issuer = Issuer::from_ca_cert_pem(ca, ca_key).expect("a CA");
    let names = vec!["127.0.0.1".to_owned()];
    let mut params = CertificateParams::new(names).expect("good names");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate().expect("a key");
    let leaf = params.signed_by(&key, &issuer).expect("it signs");
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).expect("a key");
    let ca = CertificateDer::from_pem_slice(ca.as_bytes()).expect("a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .expect("the provider knows TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone(), ca], key)
        .expect("they belong together");
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}
