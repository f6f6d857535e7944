//! Callers behind a trusted proxy. The PROXY protocol, version 2, tells where they really are.

use std::{io, net::SocketAddr, time::Duration};

use ipnet::IpNet;
use proxy_header::{ParseConfig, ProxyHeader};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    time::timeout,
};

/// Longest wait for the header, which is the first thing a proxy sends.
const HEADER_LIMIT: Duration = Duration::from_secs(5);
/// Each header of version 2 begins with it.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes of the signature, command, family and length.
const HEAD: usize = 16;
/// Longest rest of a header. Addresses have 36 bytes at most. Whatever else a proxy tells is
/// skipped.
const REST: usize = 2048;

/// Why a connection of a trusted proxy cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProxyError {
    #[error(
        "it did not begin with a PROXY protocol header of version 2; have the proxy send one, or take it out of --trusted-proxies"
    )]
    NoHeader,
    #[error("its PROXY protocol header is damaged or longer than {REST} bytes")]
    Damaged,
    #[error("its PROXY protocol header did not come within {} s", HEADER_LIMIT.as_secs())]
    TooSlow,
    #[error("the connection broke within its PROXY protocol header")]
    Broken(#[source] io::Error),
}

/// Whether a peer is one of the trusted proxies.
pub(crate) fn is_trusted(proxies: &[IpNet], peer: SocketAddr) -> bool {
    let address = peer.ip().to_canonical();
    proxies.iter().any(|network| network.contains(&address))
}

/// Reads the header and not a byte more. Returns the caller's address. For what a proxy asks by
/// itself, that is the proxy's own address.
pub(crate) async fn caller<S>(stream: &mut S, proxy: SocketAddr) -> Result<SocketAddr, ProxyError>
where
    S: AsyncRead + Unpin,
{
    match timeout(HEADER_LIMIT, read(stream, proxy)).await {
        Ok(read) => read,
        Err(_) => Err(ProxyError::TooSlow),
    }
}

async fn read<S>(stream: &mut S, proxy: SocketAddr) -> Result<SocketAddr, ProxyError>
where
    S: AsyncRead + Unpin,
{
    let mut header = vec![0; HEAD];
    // Refused at the first byte that does not fit: a client that speaks TLS may wait for an answer
    // after less than a head.
    stream.read_exact(&mut header[..1]).await.map_err(broken)?;
    if header[0] != SIGNATURE[0] {
        return Err(ProxyError::NoHeader);
    }
    stream.read_exact(&mut header[1..]).await.map_err(broken)?;
    if !header.starts_with(SIGNATURE) {
        return Err(ProxyError::NoHeader);
    }
    let rest = usize::from(u16::from_be_bytes([header[14], header[15]]));
    if rest > REST {
        return Err(ProxyError::Damaged);
    }
    header.resize(HEAD + rest, 0);
    stream
        .read_exact(&mut header[HEAD..])
        .await
        .map_err(broken)?;
    let config = ParseConfig {
        include_tlvs: false,
        allow_v1: false,
        allow_v2: true,
    };
    let (header, _) = ProxyHeader::parse(&header, config).map_err(|_| ProxyError::Damaged)?;
    Ok(header
        .proxied_address()
        .map_or(proxy, |proxied| proxied.source))
}

fn broken(error: io::Error) -> ProxyError {
    ProxyError::Broken(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt as _;

    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([command, family]);
        bytes.extend(u16::try_from(rest.len()).expect("short").to_be_bytes());
        bytes.extend(rest);
        bytes
    }

    fn proxy() -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], 1))
    }

    /// Where the caller is, and what is left to read.
    async fn heard(bytes: &[u8]) -> (Result<SocketAddr, ProxyError>, Vec<u8>) {
        let mut stream = bytes;
        let caller = caller(&mut stream, proxy()).await;
        (caller, stream.to_vec())
    }

    const V4: [u8; 12] = [192, 0, 2, 7, 10, 0, 0, 1, 0x12, 0x34, 0x1d, 0x13];

    #[tokio::test]
    async fn the_caller_is_who_the_header_names_and_the_rest_is_left_alone() {
        let mut bytes = header(0x21, 0x11, &V4);
        bytes.extend(b"hello");
        let (caller, rest) = heard(&bytes).await;
        assert_eq!(
            caller.expect("a caller"),
            SocketAddr::from(([192, 0, 2, 7], 0x1234))
        );
        assert_eq!(rest, b"hello");

        let mut six = [0; 36];
        (six[0], six[1], six[15]) = (0x20, 0x01, 9);
        let mut told_more = six.to_vec();
        told_more.extend([0x04, 0, 2, 0, 0]);
        let (caller, rest) = heard(&header(0x21, 0x21, &told_more)).await;
        assert_eq!(caller.expect("a caller").ip().to_string(), "2001::9");
        assert_eq!(rest, b"");
    }

    #[tokio::test]
    async fn what_a_proxy_asks_by_itself_comes_from_the_proxy() {
        for bytes in [
            header(0x20, 0, &[]),
            header(0x20, 0x11, &V4),
            header(0x21, 0, &[]),
        ] {
            let (caller, _) = heard(&bytes).await;
            assert_eq!(caller.expect("the proxy"), proxy(), "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn anything_else_is_refused_by_name() {
        let (refused, _) = heard(b"\x16\x03\x01\x02\x00\x01").await;
        assert!(matches!(refused, Err(ProxyError::NoHeader)), "{refused:?}");
        let (refused, _) = heard(b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2\r\n").await;
        assert!(matches!(refused, Err(ProxyError::NoHeader)), "{refused:?}");
        let (refused, _) = heard(b"\r\n\r\n\0\r\nQUIZ\n\x21\x11\0\x0c").await;
        assert!(matches!(refused, Err(ProxyError::NoHeader)), "{refused:?}");
        for bytes in [
            header(0x31, 0x11, &V4),
            header(0x21, 0x11, &V4[..8]),
            header(0x21, 0x21, &V4),
            header(0x21, 0x55, &V4),
            header(0x21, 0x11, &[0; REST + 1]),
        ] {
            let (refused, _) = heard(&bytes).await;
            assert!(matches!(refused, Err(ProxyError::Damaged)), "{refused:?}");
        }
        let (refused, _) = heard(&header(0x21, 0x11, &V4)[..20]).await;
        assert!(matches!(refused, Err(ProxyError::Broken(_))), "{refused:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_header_that_does_not_come_is_not_waited_for() {
        let (mut here, mut there) = tokio::io::duplex(64);
        there.write_all(&SIGNATURE[..6]).await.expect("room");
        let refused = caller(&mut here, proxy()).await;
        assert!(matches!(refused, Err(ProxyError::TooSlow)), "{refused:?}");
    }

    #[test]
    fn networks_of_either_kind_are_trusted() {
        let networks = ["10.0.0.0/8", "2001:db8::/32"].map(|text| text.parse().expect("a network"));
        let trusted = |text: &str| is_trusted(&networks, text.parse().expect("an address"));
        assert!(
            trusted("10.1.2.3:4") && trusted("[2001:db8::1]:4") && trusted("[::ffff:10.1.2.3]:4")
        );
        assert!(!trusted("11.1.2.3:4") && !trusted("[2001:db9::1]:4"));
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(rest in prop::collection::vec(any::<u8>(), 0..80), command: u8, family: u8) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
            let _ = runtime.block_on(heard(&header(command, family, &rest)));
        }
    }
}
