//! The listener for agents and operators. Connections are capped, and a slow TLS handshake holds
//! nobody else up. A connection is a stranger (`connections/strangers.rs`) until something on it
//! has authenticated.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use ipnet::IpNet;
use kernex_proto::handshake::ChannelBinding;
use rustix::{
    io::Errno,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout_at,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::{
    edge::{
        accept::accept_each,
        connections::{Connection, ConnectionHandle, Peer, Strangers, Transport, proxied},
    },
    error::chain,
    metrics::{GaugeGuard, Metrics},
};

/// One descriptor in sixteen is left to files, the database and other listeners. Connections get
/// the others.
const LEFT_TO_OTHERS: u64 = 16;
/// At least so many descriptors are left to them, but at most half. So the metrics listener answers
/// even when all places are taken.
const LEAST_TO_OTHERS: u64 = 64;

/// Most connections, however many descriptors there are. So many quiet ones take some 3 GB.
const MAX_CONNECTIONS: u64 = 65_536;

/// Unsent bytes of a connection that the kernel may hold. Nothing can overtake them, so they are
/// few. A stop on the same connection as a download waits for 128 KiB and not for megabytes. And
/// the download of a slow peer waits in the file and not in memory.
const UNSENT: u32 = 128 * 1024;

/// A peer that has not finished its TLS handshake by then is dropped.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// Binds. The error is one sentence that says why it could not.
pub fn bind(address: SocketAddr) -> anyhow::Result<std::net::TcpListener> {
    bind_as(address, "--listen")
}

/// Binds the listener for metrics and probes.
pub(crate) fn bind_metrics(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = bind_as(address, "--metrics-listen")?;
    listener.set_nonblocking(true)?;
    Ok(TcpListener::from_std(listener)?)
}

fn bind_as(address: SocketAddr, setting: &str) -> anyhow::Result<std::net::TcpListener> {
    std::net::TcpListener::bind(address).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            anyhow::anyhow!("cannot listen on {address}: another program uses this port; stop it or choose another with {setting}")
        }
        io::ErrorKind::PermissionDenied => {
            anyhow::anyhow!("cannot listen on {address}: this user may not; choose a port above 1023 with {setting}")
        }
        io::ErrorKind::AddrNotAvailable => {
            anyhow::anyhow!("cannot listen on {address}: this machine does not have that address; choose another with {setting}")
        }
        _ => anyhow::anyhow!("cannot listen on {address}: {error}"),
    })
}

/// Raises this process's limit on descriptors as far as it may. Returns how many connections can be
/// held at once, because each is a descriptor.
pub(crate) fn room() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the limit on descriptors stays as it is");
    }
    connections(getrlimit(Resource::Nofile).current)
}

/// How many connections a limit on descriptors allows.
fn connections(descriptors: Option<u64>) -> usize {
    let descriptors = descriptors.unwrap_or(u64::MAX);
    let others = (descriptors / LEFT_TO_OTHERS).max(LEAST_TO_OTHERS.min(descriptors / 2));
    let connections = (descriptors - others).min(MAX_CONNECTIONS);
    usize::try_from(connections).unwrap_or(usize::MAX)
}

pub(crate) struct Acceptance {
    pub(crate) most: usize,
    /// Keys and certificate; `None` for plaintext.
    pub(crate) tls: Option<TlsAcceptor>,
    /// Proxies that are believed when they say where a caller is.
    pub(crate) proxies: Vec<IpNet>,
    pub(crate) strangers: Arc<Strangers>,
    pub(crate) metrics: Arc<Metrics>,
}

/// Accepts connections until `stop`, and has each served as soon as it can be used.
pub(crate) async fn accept(
    listener: TcpListener,
    how: Acceptance,
    serve: impl Fn(Connection) + Clone + Send + 'static,
    stop: CancellationToken,
) {
    keep_little_unsent(&listener);
    let how = &Arc::new(how);
    let places = &Arc::new(Semaphore::new(how.most));
    accept_each(
        listener,
        || acquire_place(places, &how.strangers),
        move |stream, address, place| open(stream, address, place, Arc::clone(how), serve.clone()),
        |error| {
            how.metrics.edge.connections.with_label("failed").inc();
            if is_out_of_descriptors(error) {
                how.strangers.make_room();
            }
        },
        stop,
    )
    .await;
}

/// Opens a connection and has it served. Others do not wait for it.
async fn open(
    stream: TcpStream,
    address: SocketAddr,
    place: OwnedSemaphorePermit,
    how: Arc<Acceptance>,
    serve: impl Fn(Connection),
) {
    let presence = how.strangers.arrive();
    let (io, peer) = match establish(stream, address, presence.handle(), &how).await {
        Ok(opened) => opened,
        Err(Some(result)) => {
            how.metrics.edge.connections.with_label(result).inc();
            return;
        }
        // It was counted where it was closed.
        Err(None) => return,
    };
    how.metrics.edge.connections.with_label("accepted").inc();
    let counted = GaugeGuard::new(&how.metrics.edge.connections_open);
    serve(Connection::new(io, presence, peer, place, counted));
}

/// Accepted connections inherit the option from the listener. That saves a system call for each.
fn keep_little_unsent(listener: &TcpListener) {
    if let Err(error) = SockRef::from(listener).set_tcp_notsent_lowat(UNSENT) {
        tracing::debug!(%error, "TCP_NOTSENT_LOWAT not set");
    }
}

/// A place for one more connection. When all are taken, a stranger has to make room.
async fn acquire_place(
    places: &Arc<Semaphore>,
    strangers: &Strangers,
) -> Option<OwnedSemaphorePermit> {
    if let Ok(place) = Arc::clone(places).try_acquire_owned() {
        return Some(place);
    }
    loop {
        let again = strangers.make_room();
        let place = timeout_at(again, Arc::clone(places).acquire_owned()).await;
        if let Ok(place) = place {
            return place.ok();
        }
    }
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    let descriptors = [Errno::MFILE, Errno::NFILE];
    descriptors
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Opens a connection: finds out where it comes from, waits until it is let inside, and does TLS.
/// The error is the label that it is counted by; `None` when it was closed as a stranger and
/// counted there.
async fn establish(
    stream: TcpStream,
    address: SocketAddr,
    handle: &ConnectionHandle,
    how: &Acceptance,
) -> Result<(Transport, Peer), Option<&'static str>> {
    let opening = async {
        let mut stream = stream;
        let mut caller = address;
        if proxied::is_trusted(&how.proxies, address) {
            match proxied::caller(&mut stream, address).await {
                Ok(told) => caller = told,
                Err(error) => {
                    handle.refused_at(address, "proxy_header", &chain(&error));
                    return Err(Some("proxy_header"));
                }
            }
        }
        handle.wait_for_admission(caller).await;
        let (io, binding) = handshake(stream, caller, how.tls.clone()).await?;
        Ok((io, Peer { binding }))
    };
    tokio::select! {
        biased;
        _ = handle.closed() => Err(None),
        opened = opening => opened,
    }
}

/// Does TLS, if there is any. Returns the transport, and what the sessions on it are bound to. The
/// error is the label that it is counted by.
async fn handshake(
    stream: TcpStream,
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
) -> Result<(Transport, ChannelBinding), &'static str> {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%address, %error, "TCP_NODELAY not set");
    }
    let Some(acceptor) = tls else {
        return Ok((Transport::Plain(stream), ChannelBinding::PLAINTEXT));
    };
    match tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            let bytes = [0; ChannelBinding::LEN];
            let session = stream.get_ref().1;
            let exported = session.export_keying_material(bytes, ChannelBinding::LABEL, None);
            let Ok(exported) = exported else {
                return Err("refused");
            };
            let binding = ChannelBinding::exported(exported);
            Ok((Transport::Tls(Box::new(stream)), binding))
        }
        Ok(Err(error)) => {
            tracing::debug!(%address, %error, "TLS handshake failed");
            Err("refused")
        }
        Err(_) => {
            tracing::debug!(%address, "TLS handshake took too long");
            Err("timed_out")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_one_clear_sentence() {
        let first = bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("binds");
        let taken = first.local_addr().expect("has an address");
        let error = bind(taken).expect_err("is taken").to_string();
        assert!(error.contains("another program uses this port"), "{error}");
    }

    #[tokio::test]
    async fn what_is_accepted_keeps_little_unsent() {
        let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("binds");
        keep_little_unsent(&listener);
        let address = listener.local_addr().expect("has an address");
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (_near, (far, _)) = (near.expect("connects"), far.expect("is accepted"));
        let unsent = SockRef::from(&far).tcp_notsent_lowat();
        assert_eq!(unsent.expect("can be read"), UNSENT);
    }

    #[test]
    fn descriptors_say_how_many_connections_there_may_be() {
        let table = [
            (Some(0), 0),
            (Some(100), 50),
            (Some(256), 192),
            (Some(1_024), 960),
            (Some(20_000), 18_750),
            (Some(1 << 30), 65_536),
            (None, 65_536),
        ];
        for (descriptors, expected) in table {
            assert_eq!(connections(descriptors), expected, "{descriptors:?}");
        }
    }
}
