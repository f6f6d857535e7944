//! A network between an agent and its server that can be cut, stalled, throttled, abandoned and
//! measured, and that tears or garbles what passes at a chosen message.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;

use tokio::{net::TcpListener, sync::watch, task::JoinSet};

mod frames;
mod link;
mod throttle;
mod trap;

pub use frames::Protocol;
use throttle::Throttle;
pub use trap::{Direction, MessageFault, Trap};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NetworkState {
    /// Bytes pass.
    Fair,
    /// Connections stay up and nothing passes.
    Stalled,
    /// Connections are reset and new ones are closed at once.
    Cut,
}

#[derive(Debug)]
struct Shared {
    state: watch::Sender<NetworkState>,
    down: AtomicU64,
    up: AtomicU64,
    // Bytes towards the agent after which the network is cut by itself.
    cut_at: AtomicU64,
    connections: AtomicU64,
    // Connections that are open now.
    open: AtomicU64,
    // Links of an earlier number are reset.
    dropped: watch::Sender<u64>,
    // The link of this number is reset.
    dropped_one: watch::Sender<u64>,
    // Links of an earlier number pass nothing any more and stay up.
    abandoned: watch::Sender<u64>,
    // Bytes a second in each direction; 0 is as fast as it goes.
    rate: watch::Sender<u64>,
    up_throttle: Throttle,
    down_throttle: Throttle,
    trap: Mutex<Option<Trap>>,
    sprung: watch::Sender<u64>,
    protocol: Protocol,
}

/// A TCP proxy on a port of its own.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

impl Shared {
    fn trap(&self) -> parking_lot::MutexGuard<'_, Option<Trap>> {
        self.trap.lock()
    }

    fn throttle(&self, direction: Direction) -> &Throttle {
        match direction {
            Direction::Up => &self.up_throttle,
            Direction::Down => &self.down_throttle,
        }
    }
}

impl Proxy {
    /// A proxy to a port of this machine, where TLS is spoken.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn to(port: u16) -> Self {
        Self::speaking(Protocol::Tls, port).await
    }

    /// A proxy to a port of this machine where this is spoken.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn speaking(protocol: Protocol, port: u16) -> Self {
        Self::balancing(protocol, vec![port]).await
    }

    /// A proxy that gives each connection to the next of these ports.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn balancing(protocol: Protocol, ports: Vec<u16>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("a port is free");
        let address = listener.local_addr().expect("it has an address");
        let rate = watch::Sender::new(0);
        let shared = Arc::new(Shared {
            state: watch::Sender::new(NetworkState::Fair),
            down: AtomicU64::new(0),
            up: AtomicU64::new(0),
            cut_at: AtomicU64::new(u64::MAX),
            connections: AtomicU64::new(0),
            open: AtomicU64::new(0),
            dropped: watch::Sender::new(0),
            dropped_one: watch::Sender::new(0),
            abandoned: watch::Sender::new(0),
            up_throttle: Throttle::new(rate.subscribe()),
            down_throttle: Throttle::new(rate.subscribe()),
            rate,
            trap: Mutex::default(),
            sprung: watch::Sender::new(0),
            protocol,
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(link::accept(listener, ports, Arc::clone(&shared)));
        Self {
            address,
            shared,
            _tasks: tasks,
        }
    }

    /// Its URL for agents.
    #[must_use]
    pub fn url(&self) -> String {
        match self.shared.protocol {
            Protocol::Tls => format!("https://{}", self.address),
            Protocol::Http2 => format!("http://{}", self.address),
        }
    }

    /// Resets every connection and lets no new one through.
    pub fn cut(&self) {
        self.shared.state.send_replace(NetworkState::Cut);
    }

    /// Keeps connections up and passes nothing: a dead peer that was not announced.
    pub fn stall(&self) {
        self.shared.state.send_replace(NetworkState::Stalled);
    }

    /// Resets every connection; new ones pass.
    pub fn drop_links(&self) {
        self.shared.dropped.send_modify(|number| *number += 1);
    }

    /// Resets the connection that came last; new ones pass.
    pub fn drop_newest(&self) {
        self.shared.dropped_one.send_replace(self.connections());
    }

    /// Passes nothing on the connections there are, for ever, and closes none of them: a machine on
    /// the way was switched off. New ones pass.
    pub fn abandon(&self) {
        self.shared.abandoned.send_modify(|number| *number += 1);
    }

    /// Passes so many bytes a second in each direction, over all connections together, with one
    /// queue of 32 KiB in front of them; 0 is as fast as it goes.
    pub fn throttle(&self, bytes_a_second: u64) {
        self.shared.rate.send_replace(bytes_a_second);
        if bytes_a_second == 0 {
            self.shared.up_throttle.clear();
            self.shared.down_throttle.clear();
        }
    }

    /// Lays a trap, in place of one that has not sprung.
    pub fn lay(&self, trap: Trap) {
        *self.shared.trap() = Some(trap);
    }

    /// Waits until a trap that was laid has sprung.
    pub async fn sprung(&self) {
        let mut sprung = self.shared.sprung.subscribe();
        let _ = sprung.wait_for(|_| self.shared.trap().is_none()).await;
    }

    /// Ends every fault.
    pub fn heal(&self) {
        *self.shared.trap() = None;
        self.throttle(0);
        self.shared.cut_at.store(u64::MAX, Ordering::SeqCst);
        self.shared.state.send_replace(NetworkState::Fair);
    }

    /// Cuts by itself once this many more bytes went towards the agent.
    pub fn cut_after(&self, bytes: u64) {
        let at = self.bytes_down() + bytes;
        self.shared.cut_at.store(at, Ordering::SeqCst);
    }

    /// Whether the network is cut.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        *self.shared.state.borrow() == NetworkState::Cut
    }

    /// Bytes that went towards the agent.
    #[must_use]
    pub fn bytes_down(&self) -> u64 {
        self.shared.down.load(Ordering::SeqCst)
    }

    /// Bytes that went either way.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes_down() + self.shared.up.load(Ordering::SeqCst)
    }

    /// Connections that were let through.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Connections that are open now.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.shared.open.load(Ordering::SeqCst)
    }
}
