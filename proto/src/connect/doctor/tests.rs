//! Each fault between two machines is named, over real sockets of this one.

use std::{net::Ipv4Addr, sync::Arc};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    date_time_ymd,
};
use rustls::{ServerConfig, crypto::aws_lc_rs};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::trust::{Dates, PinnedCa};

const LIMIT: Duration = Duration::from_secs(5);
/// In the summer of 2026.
const NOW: i64 = 1_782_900_000;

/// Years in which a certificate is valid.
type Years = (i32, i32);
const VALID: Years = (2000, 4000);

/// Servers that end with the test.
#[derive(Default)]
struct Servers(JoinSet<()>);

impl Servers {
    async fn listen(&mut self) -> (u16, TcpListener) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        (listener.local_addr().unwrap().port(), listener)
    }

    /// A server with TLS, for a name, and the PEM of its CA.
    async fn tls(&mut self, name: &str, years: Years, alpn: &[u8]) -> (u16, String) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.not_before = date_time_ymd(years.0, 1, 1);
        params.not_after = date_time_ymd(years.1, 1, 1);
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &ca).unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone(), ca.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![alpn.to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let (port, listener) = self.listen().await;
        self.0.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    let _ = stream.shutdown().await;
                }
            }
        });
        (port, ca.pem())
    }

    /// A server that answers everybody with these bytes; with none it says nothing.
    async fn plain(&mut self, answer: &'static [u8]) -> u16 {
        let (port, listener) = self.listen().await;
        self.0.spawn(async move {
            let mut held = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(answer).await;
                if !answer.is_empty() {
                    let _ = stream.read(&mut [0; 64]).await;
                }
                held.push(stream);
            }
        });
        port
    }
}

#[test]
fn the_names_of_a_refused_certificate_are_told_as_people_write_them() {
    let mismatch = |presented: Vec<String>| {
        let why = rustls::CertificateError::NotValidForNameContext {
            expected: "a.example".try_into().unwrap(),
            presented,
        };
        let tls = io::Error::new(
            io::ErrorKind::InvalidData,
            rustls::Error::InvalidCertificate(why),
        );
        name_mismatch(&crate::connect::DialError::Tls(tls)).unwrap()
    };
    assert_eq!(
        mismatch(vec![
            r#"DnsName("localhost")"#.to_owned(),
            "IpAddress(127.0.0.1)".to_owned(),
            "DirectoryName".to_owned(),
        ]),
        "the certificate is for localhost, 127.0.0.1, DirectoryName, not for a.example"
    );
    assert!(mismatch(Vec::new()).contains("no names"));
    let many = vec![r#"DnsName("b.example")"#.to_owned(); 30];
    assert!(mismatch(many).contains("b.example and 22 more, not for"));
    let other = io::Error::other("no TLS");
    assert_eq!(name_mismatch(&other), None);
}

fn trust(ca_pem: Option<&str>) -> Option<ServerTrust> {
    let pinned = PinnedCa::from_pem(ca_pem?, Dates::Count).unwrap();
    Some(pinned)
}

/// The step that failed and what was said of it; every step before is good.
async fn fault(address: &str, ca: Option<&str>, now: i64, limit: Duration) -> (CheckStep, String) {
    let findings = examine(address, trust(ca), &Proxies::default(), now, limit).await;
    let fault = first_fault(&findings).unwrap_or_else(|| panic!("{address}: {findings:?}"));
    assert_eq!(findings.last(), Some(fault), "{findings:?}");
    assert!(
        fault.next.as_ref().is_some_and(|next| next.ends_with('.')),
        "{fault:?}"
    );
    (fault.step, fault.text.clone())
}

#[tokio::test]
async fn each_fault_on_the_way_to_a_control_plane_is_named() {
    let mut servers = Servers::default();
    let (good, ca) = servers.tls("127.0.0.1", VALID, b"h2").await;
    let (_, other_ca) = servers.tls("127.0.0.1", VALID, b"h2").await;
    let (elsewhere, elsewhere_ca) = servers.tls("kernex.example", VALID, b"h2").await;
    let (expired, expired_ca) = servers.tls("127.0.0.1", (2000, 2001), b"h2").await;
    let (early, early_ca) = servers.tls("127.0.0.1", (3000, 3001), b"h2").await;
    let (old_http, old_http_ca) = servers.tls("127.0.0.1", VALID, b"http/1.1").await;
    let web = servers.plain(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let (closed, listener) = servers.listen().await;
    drop(listener);
    let https = |port: u16| format!("https://127.0.0.1:{port}");
    let http = |port: u16| format!("http://127.0.0.1:{port}");
    let table = [
        ("https://".to_owned(), None, CheckStep::Address, ""),
        (
            "ftp://h:1".to_owned(),
            None,
            CheckStep::Address,
            "neither https",
        ),
        (
            "https://kernex.invalid:7443".to_owned(),
            None,
            CheckStep::Dns,
            "kernex.invalid",
        ),
        (https(closed), Some(&ca), CheckStep::Tcp, "nothing listens"),
        (https(web), Some(&ca), CheckStep::Tls, "does not speak TLS"),
        (http(good), None, CheckStep::Tls, "expect"),
        (http(web), None, CheckStep::Tls, "does not speak HTTP/2"),
        (https(old_http), Some(&old_http_ca), CheckStep::Tls, ""),
        (https(good), None, CheckStep::Certificate, "not known here"),
        (
            https(good),
            Some(&other_ca),
            CheckStep::Certificate,
            "not made by a CA",
        ),
        (
            https(elsewhere),
            Some(&elsewhere_ca),
            CheckStep::Name,
            "is for kernex.example, not for 127.0.0.1",
        ),
        (
            https(expired),
            Some(&expired_ca),
            CheckStep::Certificate,
            "has expired",
        ),
        (
            https(early),
            Some(&early_ca),
            CheckStep::Clock,
            "not valid yet",
        ),
    ];
    for (address, ca, step, text) in table {
        let found = fault(&address, ca.map(String::as_str), NOW, LIMIT).await;
        assert_eq!(found.0, step, "{address}: {found:?}");
        // A port with TLS answers with an alert, closes or resets.
        let said = text == "expect" && (found.1.contains("speaks TLS") || found.1.contains(text));
        assert!(said || found.1.contains(text), "{address}: {found:?}");
    }
    let silent = servers.plain(b"").await;
    let short = Duration::from_millis(300);
    for address in [https(silent), http(silent)] {
        let found = fault(
            &address,
            address.starts_with("https").then_some(ca.as_str()),
            NOW,
            short,
        );
        assert_eq!(found.await.0, CheckStep::Tls, "{address}");
    }
    let none = Proxies::default();
    let findings = examine(&https(good), trust(Some(&ca)), &none, NOW, LIMIT).await;
    assert_eq!(first_fault(&findings), None, "{findings:?}");
    // What was found stands beside the step, and reads alone.
    for finding in &findings {
        let text = &finding.text;
        assert!(!text.starts_with("and "), "{finding:?}");
        let repeats = finding.step == CheckStep::Certificate && text.contains("certificate");
        assert!(!repeats, "{finding:?}");
    }
    let steps: Vec<&str> = findings
        .iter()
        .map(|finding| finding.step.as_str())
        .collect();
    assert_eq!(steps, ["clock", "tcp", "tls", "certificate", "name"]);
    // In 1970 the clock is named first.
    let findings = examine(&https(good), trust(Some(&ca)), &none, 60, LIMIT).await;
    assert_eq!(first_fault(&findings).unwrap().step, CheckStep::Clock);
}

#[tokio::test]
async fn a_proxy_on_the_way_is_looked_at_instead_of_the_name() {
    let mut servers = Servers::default();
    let (_, ca) = servers.tls("kernex.example", VALID, b"h2").await;
    let refuses = servers
        .plain(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")
        .await;
    let proxy = format!("http://ada:hunter2@127.0.0.1:{refuses}");
    let proxies = Proxies::new(Some(&proxy), |_| None).unwrap();
    // No DNS server here knows it; the proxy is asked.
    let address = "https://kernex.invalid:7443";
    let findings = examine(address, trust(Some(&ca)), &proxies, NOW, LIMIT).await;
    let steps: Vec<CheckStep> = findings.iter().map(|finding| finding.step).collect();
    assert_eq!(steps, [CheckStep::Clock, CheckStep::Proxy], "{findings:?}");
    let fault = first_fault(&findings).unwrap();
    assert!(fault.text.contains("does not lead there"), "{fault:?}");
    assert!(!format!("{fault:?}").contains("hunter2"), "{fault:?}");
}
