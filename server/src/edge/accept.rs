//! The accept loop of both listeners. It is calm when descriptors run out, and a connection never
//! waits for the task of another. The port is free as soon as the stop begins.
//!
//! Two listeners use it, each with its own rules:
//!
//! * `listener.rs`, for agents and operators: when all places are taken, a stranger makes room. A
//!   connection does TLS and then HTTP/2.
//! * `monitor.rs`, for scrapes and probes: when all places are taken, the next one waits. A
//!   connection has one answer in HTTP/1.1.

use std::{io, net::SocketAddr, time::Duration};

use backon::ExponentialBackoff;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::OwnedSemaphorePermit,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::backoff::doubling;

/// Pause after the first error of `accept` in a row.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// Longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_millis(1280);

/// Accepts connections until `stop`. `find_place` waits for a place for the connection that has
/// come; without one no more are accepted. `serve` is run in a task, which is aborted at the stop.
/// `note_failure` hears of each error of `accept` before the pause that follows it.
pub(crate) async fn accept_each<F, S>(
    listener: TcpListener,
    find_place: impl Fn() -> F,
    serve: impl Fn(TcpStream, SocketAddr, OwnedSemaphorePermit) -> S,
    note_failure: impl Fn(&io::Error),
    stop: CancellationToken,
) where
    F: Future<Output = Option<OwnedSemaphorePermit>>,
    S: Future<Output = ()> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    let mut pause = Pause::default();
    loop {
        // Both branches are cancel-safe; tasks are reaped as they end.
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = tasks.join_next(), if !tasks.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => {
                pause = Pause::default();
                let place = tokio::select! {
                    () = stop.cancelled() => break,
                    place = find_place() => place,
                };
                let Some(place) = place else { break };
                tasks.spawn(serve(stream, address, place));
            }
            Err(error) => {
                note_failure(&error);
                pause.after(&error).await;
            }
        }
    }
    // The port is free for a successor as soon as the stop begins.
    drop(listener);
    tasks.shutdown().await;
}

/// Waits longer after each error in a row: with no descriptor left, accepting again at once only
/// costs processor time.
#[derive(Debug)]
struct Pause(ExponentialBackoff);

impl Default for Pause {
    fn default() -> Self {
        Self(doubling(FIRST_PAUSE, LONGEST_PAUSE))
    }
}

impl Pause {
    async fn after(&mut self, error: &io::Error) {
        let theirs = matches!(
            error.kind(),
            io::ErrorKind::ConnectionAborted
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::Interrupted
        );
        if theirs {
            return;
        }
        let wait = self.0.next().unwrap_or(LONGEST_PAUSE);
        tracing::warn!(%error, wait_ms = wait.as_millis() as u64, "cannot accept a connection");
        tokio::time::sleep(wait).await;
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::Ipv4Addr,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
    };

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        sync::Semaphore,
    };

    use super::*;

    #[test]
    fn pauses_grow_to_a_limit() {
        let pause = Pause::default();
        let waits: Vec<_> = pause.0.take(10).map(|wait| wait.as_millis()).collect();
        assert_eq!(waits[0], 10);
        assert_eq!(waits[9], 1280);
    }

    #[tokio::test]
    async fn connections_wait_for_a_place_and_the_port_is_free_after_the_stop() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("binds");
        let address = listener.local_addr().expect("has an address");
        let places = Arc::new(Semaphore::new(1));
        let (served, stop) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
        let counted = Arc::clone(&served);
        let accepting = accept_each(
            listener,
            move || {
                let places = Arc::clone(&places);
                async move { places.acquire_owned().await.ok() }
            },
            move |mut stream, _, place| {
                let served = Arc::clone(&counted);
                async move {
                    served.fetch_add(1, Ordering::Relaxed);
                    let mut byte = [0];
                    let _ = stream.read_exact(&mut byte).await;
                    let _ = stream.write_all(&byte).await;
                    drop(place);
                }
            },
            |error| panic!("{error}"),
            stop.clone(),
        );
        let calls = async {
            let mut first = TcpStream::connect(address).await.expect("connects");
            let mut second = TcpStream::connect(address).await.expect("connects");
            let mut byte = [0];
            second.write_all(b"2").await.expect("writes");
            let early = second.read_exact(&mut byte);
            let early = tokio::time::timeout(Duration::from_millis(50), early).await;
            assert!(early.is_err(), "the only place is taken");
            assert_eq!(served.load(Ordering::Relaxed), 1);
            first.write_all(b"1").await.expect("writes");
            first.read_exact(&mut byte).await.expect("is answered");
            second.read_exact(&mut byte).await.expect("has its turn");
            assert_eq!(&byte, b"2");
            stop.cancel();
        };
        tokio::join!(accepting, calls);
        TcpListener::bind(address).await.expect("the port is free");
    }
}
