//! One connection through the proxy, both ways.

use std::{
    io,
    net::Ipv4Addr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinSet,
};

use super::{
    Shared, Way, Weather,
    frames::Frames,
    trap::{Sprung, look},
};

/// Bytes passed at once where a rate is kept to.
const SIP: usize = 512;

pub(super) async fn accept(listener: TcpListener, port: u16, shared: Arc<Shared>) {
    let mut links = JoinSet::new();
    while let Ok((agent, _)) = listener.accept().await {
        if *shared.weather.borrow() != Weather::Cut {
            links.spawn(link(agent, port, Arc::clone(&shared)));
        }
        while links.try_join_next().is_some() {}
    }
}

async fn link(agent: TcpStream, port: u16, shared: Arc<Shared>) {
    let mut weather = shared.weather.subscribe();
    let (mut dropped, mut abandoned) = (shared.dropped.subscribe(), shared.abandoned.subscribe());
    let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else {
        return;
    };
    let _ = agent.set_nodelay(true);
    let _ = server.set_nodelay(true);
    shared.connections.fetch_add(1, Ordering::SeqCst);
    let (mut from_agent, mut to_agent) = agent.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    tokio::select! {
        _ = pump(&mut from_agent, &mut to_server, &shared, Way::Up) => return,
        _ = pump(&mut from_server, &mut to_agent, &shared, Way::Down) => return,
        _ = weather.wait_for(|now| *now == Weather::Cut) => return,
        _ = dropped.changed() => return,
        _ = abandoned.changed() => {}
    }
    // Neither side learns that the other has gone.
    tokio::join!(swallow(&mut from_agent), swallow(&mut from_server));
}

async fn swallow(from: &mut OwnedReadHalf) {
    let mut buffer = vec![0; 4096];
    while from.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
}

async fn pump(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    shared: &Shared,
    way: Way,
) -> io::Result<()> {
    let mut buffer = vec![0; 32 * 1024];
    let mut frames = Frames::new(shared.protocol, way == Way::Up);
    let mut weather = shared.weather.subscribe();
    loop {
        let rate = *shared.rate.borrow();
        let sip = if rate == 0 { buffer.len() } else { SIP };
        let read = from.read(&mut buffer[..sip]).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        let _ = weather.wait_for(|now| *now == Weather::Fair).await;
        let bytes = &mut buffer[..read];
        let begins = frames.begins(bytes);
        let (sprung, has_sprung) = {
            let mut trap = shared.trap();
            let was_laid = trap.is_some();
            let sprung = look(&mut trap, way, &begins, bytes);
            (sprung, was_laid && trap.is_none())
        };
        if has_sprung {
            shared.sprung.send_modify(|number| *number += 1);
        }
        if let Sprung::Ends(passes) = sprung {
            return to.write_all(&bytes[..passes]).await;
        }
        to.write_all(bytes).await?;
        if way == Way::Down {
            let passed = shared.down.fetch_add(read as u64, Ordering::SeqCst) + read as u64;
            if passed >= shared.cut_at.load(Ordering::SeqCst) {
                shared.weather.send_replace(Weather::Cut);
            }
        } else {
            shared.up.fetch_add(read as u64, Ordering::SeqCst);
        }
        if rate > 0 {
            tokio::time::sleep(
                Duration::from_secs(read as u64) / u32::try_from(rate).unwrap_or(u32::MAX),
            )
            .await;
        }
    }
}
