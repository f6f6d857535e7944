//! What is dialled and what is not, over real sockets of this machine.

use std::net::Ipv4Addr;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use rustls::{ServerConfig, SupportedProtocolVersion, version::TLS12};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{ids::Digest, trust::Dates};

const LIMIT: Duration = Duration::from_secs(60);

/// A server for one connection, which says what its end of it is bound to; and the PEM of its CA.
async fn serve(
    version: &'static SupportedProtocolVersion,
    alpn: &[u8],
) -> (u16, String, JoinSet<Option<Vec<u8>>>) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate().unwrap();
    let leaf = params.signed_by(&key, &ca).unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone(), ca.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![alpn.to_vec()];
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = TlsAcceptor::from(Arc::new(config))
            .accept(stream)
            .await
            .ok()?;
        let (_, session) = stream.get_ref();
        let exported = session
            .export_keying_material([0; 32], b"EXPORTER-Channel-Binding", None)
            .unwrap();
        stream.write_all(b"x").await.unwrap();
        Some(exported.to_vec())
    };
    let mut task = JoinSet::new();
    task.spawn(serving);
    (port, ca.pem(), task)
}

async fn ended(mut task: JoinSet<Option<Vec<u8>>>) -> Option<Vec<u8>> {
    task.join_next().await.unwrap().unwrap()
}

fn reach(port: u16, ca: &str) -> ControlPlane {
    let trust = PinnedCa::from_pem(ca, Dates::Count);
    ControlPlane::new(&format!("https://127.0.0.1:{port}"), trust, LIMIT).unwrap()
}

#[tokio::test]
async fn both_ends_of_a_connection_see_the_same_binding_and_each_connection_has_its_own() {
    let mut seen = Vec::new();
    for _ in 0..2 {
        let (port, ca, serving) = serve(&TLS13, HTTP2).await;
        let mut connection = reach(port, &ca).dial().await.unwrap();
        connection.io.read_exact(&mut [0]).await.unwrap();
        let theirs = ended(serving).await.unwrap();
        assert_eq!(connection.binding.bytes(), theirs);
        seen.push(theirs);
    }
    assert_ne!(seen[0], seen[1]);
}

#[tokio::test]
async fn what_is_not_tls_1_3_with_http_2_is_left() {
    let (port, ca, serving) = serve(&TLS12, HTTP2).await;
    let refused = reach(port, &ca).dial().await.unwrap_err();
    assert!(matches!(refused, DialError::Tls(_)), "{refused:?}");
    assert_eq!(ended(serving).await, None);

    let (port, ca, serving) = serve(&TLS13, b"http/1.1").await;
    // Either end may be the first to notice.
    let refused = reach(port, &ca).dial().await.unwrap_err();
    assert!(
        matches!(refused, DialError::Tls(_) | DialError::NotHttp2),
        "{refused:?}"
    );
    ended(serving).await;
}

#[tokio::test]
async fn another_ca_is_not_believed() {
    let (port, _, serving) = serve(&TLS13, HTTP2).await;
    let trust = PinnedCa::from_fingerprint(Digest([1; 32]));
    let address = format!("https://127.0.0.1:{port}");
    let remote = ControlPlane::new(&address, Some(trust), LIMIT).unwrap();
    let refused = remote.dial().await.unwrap_err();
    assert!(matches!(refused, DialError::Tls(_)), "{refused:?}");
    ended(serving).await;
}

#[tokio::test]
async fn plaintext_leaves_this_machine_nowhere() {
    for host in ["192.0.2.1", "[2001:db8::1]", "[::ffff:192.0.2.1]"] {
        let remote = ControlPlane::new(&format!("http://{host}:1"), None, LIMIT).unwrap();
        let refused = remote.dial().await.unwrap_err();
        assert!(matches!(refused, DialError::Plaintext(_)), "{refused:?}");
        assert!(refused.to_string().contains("https://"), "{refused}");
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
        let here = ControlPlane::new(&format!("http://{host}:{port}"), None, LIMIT).unwrap();
        let connection = here.dial().await.unwrap();
        assert_eq!(connection.binding, ChannelBinding::PLAINTEXT);
        assert!(connection.binding.bytes().is_empty());
    }
}

#[test]
fn an_address_that_would_skip_tls_is_refused() {
    let trust = || Some(PinnedCa::from_fingerprint(Digest([1; 32])));
    let refused = |address: &str, trust| ControlPlane::new(address, trust, LIMIT).unwrap_err();
    let text = |address: &str| address.to_owned();
    let table = [
        (
            "http://localhost:1",
            trust(),
            AddressError::NoTls as fn(_) -> _,
        ),
        ("https://localhost:1", None, AddressError::NoCa),
        ("localhost", None, AddressError::Malformed),
        ("localhost:7443", trust(), AddressError::Malformed),
        ("ftp://localhost", None, AddressError::Malformed),
        ("https://", trust(), AddressError::Malformed),
        ("https://-:1", trust(), AddressError::Malformed),
    ];
    for (address, trust, expected) in table {
        assert_eq!(refused(address, trust), expected(text(address)));
    }
}

#[tokio::test]
async fn one_connection_is_never_replaced_by_another() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let remote = ControlPlane::new(&format!("http://127.0.0.1:{port}"), None, LIMIT).unwrap();
    let connection = remote.dial().await.unwrap();
    let channel = connection.into_channel(&remote.endpoint()).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    drop(accepted);
    for _ in 0..2 {
        let mut grpc = tonic::client::Grpc::new(channel.clone());
        let path = http::uri::PathAndQuery::from_static("/none.None/None");
        let codec = tonic_prost::ProstCodec::<crate::v1::Ready, crate::v1::Ready>::default();
        let called = match grpc.ready().await {
            Ok(()) => grpc
                .unary(
                    tonic::Request::new(crate::v1::Ready::default()),
                    path,
                    codec,
                )
                .await
                .map(drop)
                .map_err(drop),
            Err(_) => Err(()),
        };
        assert_eq!(called, Err(()));
    }
    let again = tokio::time::timeout(Duration::ZERO, listener.accept()).await;
    assert!(again.is_err(), "it connected again");
}
