//! A network that can be cut, stalled and measured, between an agent and its server.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
};

/// How the network is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weather {
    /// Bytes pass.
    Fair,
    /// Connections stay up and nothing passes.
    Stalled,
    /// Connections are reset and new ones are closed at once.
    Cut,
}

#[derive(Debug)]
struct Shared {
    weather: watch::Sender<Weather>,
    down: AtomicU64,
    // Bytes towards the agent after which the network is cut by itself.
    cut_at: AtomicU64,
    connections: AtomicU64,
}

/// A TCP proxy on a port of its own.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    /// A proxy to a port of this machine.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("a port is free");
        let address = listener.local_addr().expect("it has an address");
        let shared = Arc::new(Shared {
            weather: watch::Sender::new(Weather::Fair),
            down: AtomicU64::new(0),
            cut_at: AtomicU64::new(u64::MAX),
            connections: AtomicU64::new(0),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, port, Arc::clone(&shared)));
        Self {
            address,
            shared,
            _tasks: tasks,
        }
    }

    /// Where an agent finds it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Resets every connection and lets no new one through.
    pub fn cut(&self) {
        self.shared.weather.send_replace(Weather::Cut);
    }

    /// Keeps connections up and passes nothing: a dead peer that was not announced.
    pub fn stall(&self) {
        self.shared.weather.send_replace(Weather::Stalled);
    }

    /// Lets everything pass again.
    pub fn heal(&self) {
        self.shared.cut_at.store(u64::MAX, Ordering::SeqCst);
        self.shared.weather.send_replace(Weather::Fair);
    }

    /// Cuts by itself once this many more bytes went towards the agent.
    pub fn cut_after(&self, bytes: u64) {
        let at = self.bytes_down() + bytes;
        self.shared.cut_at.store(at, Ordering::SeqCst);
    }

    /// Whether the network is cut.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        *self.shared.weather.borrow() == Weather::Cut
    }

    /// Bytes that went towards the agent.
    #[must_use]
    pub fn bytes_down(&self) -> u64 {
        self.shared.down.load(Ordering::SeqCst)
    }

    /// Connections that were let through.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

async fn accept(listener: TcpListener, port: u16, shared: Arc<Shared>) {
    let mut links = JoinSet::new();
    while let Ok((agent, _)) = listener.accept().await {
        if *shared.weather.borrow() != Weather::Cut {
            links.spawn(link(agent, port, Arc::clone(&shared)));
        }
        while links.try_join_next().is_some() {}
    }
}

async fn link(agent: TcpStream, port: u16, shared: Arc<Shared>) {
    let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else {
        return;
    };
    let _ = agent.set_nodelay(true);
    let _ = server.set_nodelay(true);
    shared.connections.fetch_add(1, Ordering::SeqCst);
    let mut weather = shared.weather.subscribe();
    let (from_agent, to_agent) = agent.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        _ = pump(from_agent, to_server, &shared, false) => {}
        _ = pump(from_server, to_agent, &shared, true) => {}
        _ = weather.wait_for(|now| *now == Weather::Cut) => {}
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    shared: &Shared,
    downwards: bool,
) -> io::Result<()> {
    let mut buffer = vec![0; 32 * 1024];
    let mut weather = shared.weather.subscribe();
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        let _ = weather.wait_for(|now| *now == Weather::Fair).await;
        to.write_all(&buffer[..read]).await?;
        if downwards {
            let passed = shared.down.fetch_add(read as u64, Ordering::SeqCst) + read as u64;
            if passed >= shared.cut_at.load(Ordering::SeqCst) {
                shared.weather.send_replace(Weather::Cut);
            }
        }
    }
}
