//! Asks a server on this machine whether it is ready. Health checks of containers use it, because
//! their images hold no other program that could.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, bail};

/// Longest wait for each step. A healthy server answers at once.
const STEP_LIMIT: Duration = Duration::from_secs(3);
/// Most bytes of an answer that are read.
const ANSWER: u64 = 4096;

/// Succeeds when the server with its metrics at `address` is ready. The error says why it is not.
pub fn probe(address: Option<SocketAddr>) -> anyhow::Result<()> {
    let Some(address) = address else {
        bail!("there is no port to ask, because --metrics-listen is empty");
    };
    let address = reachable(address);
    let answer = ask(address).with_context(|| format!("no answer from {address}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    match head.split(' ').nth(1) {
        Some("200") => Ok(()),
        _ => bail!("the server at {address} is not ready: {}", body.trim()),
    }
}

fn ask(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, STEP_LIMIT)?;
    stream.set_read_timeout(Some(STEP_LIMIT))?;
    stream.set_write_timeout(Some(STEP_LIMIT))?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(ANSWER).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// A listener on all addresses is asked on this machine's own.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    fn asked(answer: &'static str) -> anyhow::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let answering = thread::spawn(move || {
            let (mut stream, _) = listener.accept()?;
            let mut request = [0; 1024];
            let read = stream.read(&mut request)?;
            assert!(request[..read].starts_with(b"GET /readyz HTTP/1.1\r\n"));
            stream.write_all(answer.as_bytes())
        });
        let result = probe(Some(address));
        answering.join().expect("it ends")?;
        result
    }

    #[test]
    fn only_a_server_that_is_ready_passes() {
        asked("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nready\n").expect("it is ready");
        let refused = asked("HTTP/1.1 503 Service Unavailable\r\n\r\nthe database is away\n");
        let refused = refused.expect_err("it is not ready").to_string();
        assert!(refused.ends_with("the database is away"), "{refused}");
        asked("SSH-2.0-OpenSSH_9\r\n").expect_err("this is no server of ours");
        asked("").expect_err("it says nothing");
    }

    #[test]
    fn who_listens_everywhere_is_asked_here() {
        for (listened, asked) in [
            ("0.0.0.0:7444", "127.0.0.1:7444"),
            ("[::]:7444", "[::1]:7444"),
            ("10.0.0.7:7444", "10.0.0.7:7444"),
        ] {
            let address = listened.parse().expect("an address");
            assert_eq!(reachable(address).to_string(), asked);
        }
        probe(None).expect_err("nobody listens");
    }
}
