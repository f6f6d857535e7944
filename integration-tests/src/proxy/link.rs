//! One connection through the proxy, both ways.

use std::{
    io,
    net::Ipv4Addr,
    sync::{Arc, atomic::Ordering},
};

use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
};

use super::{
    Direction, NetworkState, Shared,
    frames::Frames,
    throttle::QueuePlace,
    trap::{Passage, look},
};

/// Bytes passed at once where a rate is kept to.
const SIP: usize = 512;
/// Bytes of one connection and direction that are on their way; what a receiver that does not read
/// holds up is its own.
const CREDIT: usize = 64 * 1024;
/// Buffers of the kernel where a rate is kept to: what waits is to wait in the throttle's queue.
const NARROW: usize = 32 * 1024;

/// Bytes on their way.
struct QueuedBytes {
    bytes: Vec<u8>,
    /// Its turn in the queue, where a rate is kept to.
    place: Option<QueuePlace>,
    _credit: OwnedSemaphorePermit,
}

pub(super) async fn accept(listener: TcpListener, ports: Vec<u16>, shared: Arc<Shared>) {
    let mut links = JoinSet::new();
    let mut turns = ports.into_iter().cycle();
    while let (Ok((agent, _)), Some(port)) = (listener.accept().await, turns.next()) {
        if *shared.state.borrow() != NetworkState::Cut {
            links.spawn(link(agent, port, Arc::clone(&shared)));
        }
        while links.try_join_next().is_some() {}
    }
}

async fn link(agent: TcpStream, port: u16, shared: Arc<Shared>) {
    let mut state = shared.state.subscribe();
    let (mut dropped, mut abandoned) = (shared.dropped.subscribe(), shared.abandoned.subscribe());
    let mut dropped_one = shared.dropped_one.subscribe();
    let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else {
        return;
    };
    let _ = agent.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let number = shared.connections.fetch_add(1, Ordering::SeqCst) + 1;
    let _open = Open::one_more(&shared);
    let (mut from_agent, mut to_agent) = agent.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    tokio::select! {
        _ = pump(&mut from_agent, &mut to_server, &shared, Direction::Up) => return,
        _ = pump(&mut from_server, &mut to_agent, &shared, Direction::Down) => return,
        _ = state.wait_for(|now| *now == NetworkState::Cut) => return,
        _ = dropped.changed() => return,
        _ = dropped_one.wait_for(|one| *one == number) => return,
        _ = abandoned.changed() => {}
    }
    // Neither side learns that the other has gone.
    tokio::join!(swallow(&mut from_agent), swallow(&mut from_server));
}

/// A connection that is counted while it is open.
struct Open<'a>(&'a Shared);

impl<'a> Open<'a> {
    fn one_more(shared: &'a Shared) -> Self {
        shared.open.fetch_add(1, Ordering::SeqCst);
        Self(shared)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn swallow(from: &mut OwnedReadHalf) {
    let mut buffer = vec![0; 4096];
    while from.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
}

async fn pump(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    shared: &Shared,
    direction: Direction,
) -> io::Result<()> {
    let (to_queue, queued) = mpsc::unbounded_channel();
    let (from_queue, arrived) = mpsc::unbounded_channel();
    // Three stages, so that a receiver that does not read keeps no place in the queue.
    tokio::try_join!(
        collect(from, shared, direction, to_queue),
        travel(queued, shared, from_queue),
        deliver(arrived, to, shared, direction),
    )?;
    Ok(())
}

/// Takes bytes in, looks what is to be done to them, and queues them.
async fn collect(
    from: &mut OwnedReadHalf,
    shared: &Shared,
    direction: Direction,
    to_queue: mpsc::UnboundedSender<QueuedBytes>,
) -> io::Result<()> {
    let mut buffer = vec![0; CREDIT / 2];
    let mut frames = Frames::new(shared.protocol, direction == Direction::Up);
    let credit = Arc::new(Semaphore::new(CREDIT));
    let mut is_narrow = false;
    loop {
        let is_slow = shared.throttle(direction).is_slow();
        if is_slow && !is_narrow {
            is_narrow = true;
            narrow(from.as_ref())?;
        }
        let sip = if is_slow { SIP } else { buffer.len() };
        let read = from.read(&mut buffer[..sip]).await?;
        if read == 0 {
            return Ok(());
        }
        let bytes = &mut buffer[..read];
        let begins = frames.begins(bytes);
        let (passage, has_sprung) = {
            let mut trap = shared.trap();
            let was_laid = trap.is_some();
            let passage = look(&mut trap, direction, &begins, bytes);
            (passage, was_laid && trap.is_none())
        };
        if has_sprung {
            shared.sprung.send_modify(|number| *number += 1);
        }
        let (passes, ends) = match passage {
            Passage::Ends(passes) => (passes, true),
            _ => (read, false),
        };
        let permits = u32::try_from(passes).map_err(io::Error::other)?;
        let credit = Arc::clone(&credit).acquire_many_owned(permits).await;
        let parcel = QueuedBytes {
            bytes: bytes[..passes].to_vec(),
            place: shared.throttle(direction).enter(permits).await,
            _credit: credit.map_err(io::Error::other)?,
        };
        let _ = to_queue.send(parcel);
        if ends {
            return Ok(());
        }
    }
}

/// What waits is to wait in the throttle's queue, and not in those of the kernel.
fn narrow(socket: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_recv_buffer_size(NARROW)?;
    socket.set_send_buffer_size(NARROW)
}

/// Passes on what waits, at the rate.
async fn travel(
    mut queued: mpsc::UnboundedReceiver<QueuedBytes>,
    shared: &Shared,
    from_queue: mpsc::UnboundedSender<QueuedBytes>,
) -> io::Result<()> {
    let mut rate = shared.rate.subscribe();
    while let Some(mut parcel) = queued.recv().await {
        if let Some(place) = parcel.place.take() {
            place.travelled(&mut rate).await;
        }
        let _ = from_queue.send(parcel);
    }
    Ok(())
}

/// Hands over what arrived, while the network lets bytes pass.
async fn deliver(
    mut arrived: mpsc::UnboundedReceiver<QueuedBytes>,
    to: &mut OwnedWriteHalf,
    shared: &Shared,
    direction: Direction,
) -> io::Result<()> {
    let mut state = shared.state.subscribe();
    while let Some(parcel) = arrived.recv().await {
        let _ = state.wait_for(|now| *now == NetworkState::Fair).await;
        to.write_all(&parcel.bytes).await?;
        let length = parcel.bytes.len() as u64;
        if direction == Direction::Down {
            let passed = shared.down.fetch_add(length, Ordering::SeqCst) + length;
            if passed >= shared.cut_at.load(Ordering::SeqCst) {
                shared.state.send_replace(NetworkState::Cut);
            }
        } else {
            shared.up.fetch_add(length, Ordering::SeqCst);
        }
    }
    to.shutdown().await
}
