//! The handle of a connection, for the calls on it and for those who decide whether it may stay.

use std::{
    future::poll_fn,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc, LazyLock, OnceLock,
        atomic::{
            AtomicU8, AtomicU16, AtomicU32,
            Ordering::{Relaxed, SeqCst},
        },
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::task::AtomicWaker;
use tonic::Status;

use super::{guesses::Credential, source::Source};
use crate::error::busy;

/// When to try again what was too much at once.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Unfinished calls that a stranger may have.
pub(super) const STRANGER_CALLS: u16 = 8;
/// Unfinished watches of the server's health on one connection, also of a known caller.
const WATCHES: u8 = 4;

/// Flag: something on it has authenticated.
const KNOWN: u8 = 1;
/// Flag: it was let inside.
const INSIDE: u8 = 2;
/// Flag: something on it has failed to authenticate.
const FAILED: u8 = 4;
/// Flag: it is no longer counted among the strangers.
const LEFT: u8 = 8;

/// Connections count the seconds from here, because a handle has no room for an [`Instant`].
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Watches over the strangers. Each has a number.
pub(super) trait Watch: std::fmt::Debug + Send + Sync {
    /// Says where a stranger comes from.
    fn locate(&self, number: u64, source: Source);
    /// A stranger has authenticated or is gone.
    fn forget(&self, number: u64);
    /// Takes one of the failures that a source may have. The error says when there will be one
    /// again.
    fn may_guess(&self, credential: Credential, source: Source) -> Result<(), Duration>;
    /// Counts and logs that a stranger was refused.
    fn refused(&self, source: Source, reason: &'static str, detail: &dyn std::fmt::Display);
}

/// It is in the extensions of each request. Clones are handles of the same connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct ConnectionHandle(Arc<ConnectionState>);

#[derive(Debug, Default)]
struct ConnectionState {
    address: OnceLock<SocketAddr>,
    /// Why it has to be closed; empty until then.
    why: OnceLock<&'static str>,
    task: AtomicWaker,
    flags: AtomicU8,
    watches: AtomicU8,
    calls: AtomicU16,
    /// Seconds from [`START`] until something was last read.
    read_at: AtomicU32,
    /// The watch over the strangers, and its number there.
    stranger: OnceLock<(Arc<dyn Watch>, u64)>,
}

impl ConnectionHandle {
    /// Makes the connection a stranger with this number.
    pub(super) fn set_stranger(&self, strangers: Arc<dyn Watch>, number: u64) {
        let _ = self.0.stranger.set((strangers, number));
    }

    /// Closes the connection with all calls on it, for a peer that would not read a smaller end.
    /// `why` goes to the log.
    pub(crate) fn close(&self, why: &'static str) {
        // The first reason counts.
        let _ = self.0.why.set(why);
        self.0.task.wake();
    }

    /// Tells connections apart for as long as one of their handles lives.
    pub(crate) fn key(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    /// Waits until somebody closes the connection. Only its task may wait.
    pub(crate) async fn closed(&self) -> &'static str {
        poll_fn(|context| {
            self.0.task.register(context.waker());
            self.0
                .why
                .get()
                .map_or(Poll::Pending, |why| Poll::Ready(*why))
        })
        .await
    }

    /// Bytes came, or the end of the connection.
    pub(super) fn note_read(&self) {
        let seconds = START.elapsed().as_secs();
        let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
        self.0.read_at.store(seconds, Relaxed);
    }

    /// For how long nothing has come, not even the end of the connection; up to a second more.
    pub(crate) fn quiet_for(&self) -> Duration {
        let read_at = Duration::from_secs(self.0.read_at.load(Relaxed).into());
        START.elapsed().saturating_sub(read_at)
    }

    fn has(&self, flag: u8) -> bool {
        self.0.flags.load(SeqCst) & flag != 0
    }

    /// Sets a flag. True when it was not set before.
    fn set(&self, flag: u8) -> bool {
        self.0.flags.fetch_or(flag, SeqCst) & flag == 0
    }

    /// Where the caller is. A trusted proxy may have said so.
    pub(crate) fn address(&self) -> SocketAddr {
        let unknown = || SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        self.0.address.get().copied().unwrap_or_else(unknown)
    }

    /// The caller's address without the port, as it is logged.
    pub(crate) fn ip(&self) -> IpAddr {
        self.address().ip().to_canonical()
    }

    pub(super) fn source(&self) -> Source {
        self.address().ip().into()
    }

    /// Says where the caller is, and waits until a stranger from there is let inside. Only the
    /// connection's task may wait.
    pub(crate) async fn wait_for_admission(&self, address: SocketAddr) {
        let _ = self.0.address.set(address);
        match self.0.stranger.get() {
            Some((strangers, number)) => strangers.locate(*number, self.source()),
            None => return,
        }
        poll_fn(|context: &mut Context<'_>| {
            self.0.task.register(context.waker());
            if self.has(INSIDE) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    /// Lets a stranger inside who waits.
    pub(super) fn admit(&self) {
        self.set(INSIDE);
        self.0.task.wake();
    }

    /// Whether nothing on it has authenticated.
    pub(crate) fn is_stranger(&self) -> bool {
        !self.has(KNOWN)
    }

    /// Something on it has authenticated. It has no time limit any more, and does not count for its
    /// source.
    pub(crate) fn mark_known(&self) {
        if self.is_stranger() && self.set(KNOWN) {
            self.leave_strangers();
            self.0.task.wake();
        }
    }

    fn leave_strangers(&self) {
        if let Some((strangers, number)) = self.0.stranger.get()
            && self.set(LEFT)
        {
            strangers.forget(*number);
        }
    }

    /// Whether a try to authenticate may go on. A connection on which nothing has failed always has
    /// its try. So a right credential gets in, whatever others at the same address do. Further
    /// tries are paid in advance.
    pub(crate) fn may_try(&self, credential: Credential) -> Result<(), Status> {
        if !self.is_stranger() || !self.has(FAILED) {
            return Ok(());
        }
        self.pay_for_try(credential)
            .map_err(|wait| busy("too many tries from your address have failed", wait))
    }

    /// A try to authenticate failed.
    pub(crate) fn failed(&self, credential: Credential) {
        if self.set(FAILED) {
            // The first failure is paid afterwards, because its try was free.
            let _ = self.pay_for_try(credential);
        }
    }

    fn pay_for_try(&self, credential: Credential) -> Result<(), Duration> {
        let strangers = self.0.stranger.get();
        strangers.map_or(Ok(()), |(strangers, _)| {
            strangers.may_guess(credential, self.source())
        })
    }

    /// Counts that a stranger was refused, and logs it once a minute for each source.
    pub(crate) fn refused(&self, reason: &'static str, detail: &dyn std::fmt::Display) {
        if let Some((strangers, _)) = self.0.stranger.get() {
            strangers.refused(self.source(), reason, detail);
        }
    }

    /// [`Self::refused`] for a connection whose real source will never be known.
    pub(crate) fn refused_at(
        &self,
        address: SocketAddr,
        reason: &'static str,
        detail: &dyn std::fmt::Display,
    ) {
        let _ = self.0.address.set(address);
        self.refused(reason, detail);
    }

    /// Begins a call, or says why there cannot be one more. What is returned counts until it is
    /// dropped.
    pub(super) fn begin_call(&self, watches_health: bool) -> Result<Option<OpenCall>, Status> {
        let stranger = self.is_stranger();
        if !stranger && !watches_health {
            return Ok(None);
        }
        // Only the task of this connection begins calls, so the counts do not change in between.
        if stranger && self.0.calls.load(SeqCst) >= STRANGER_CALLS {
            return Err(busy(
                "too many unfinished calls on a connection on which none has authenticated",
                RETRY_AFTER,
            ));
        }
        if watches_health && self.0.watches.load(SeqCst) >= WATCHES {
            return Err(busy(
                "too many watches of the server's health on one connection",
                RETRY_AFTER,
            ));
        }
        self.0.calls.fetch_add(1, SeqCst);
        self.0.watches.fetch_add(u8::from(watches_health), SeqCst);
        Ok(Some(OpenCall {
            handle: self.clone(),
            watches_health,
        }))
    }
}

/// A call that is counted until this is dropped.
#[derive(Debug)]
pub(super) struct OpenCall {
    handle: ConnectionHandle,
    watches_health: bool,
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        let shared = &self.handle.0;
        shared.calls.fetch_sub(1, SeqCst);
        shared
            .watches
            .fetch_sub(u8::from(self.watches_health), SeqCst);
    }
}

/// Held by the owner of the connection. When it is dropped, the connection is gone.
#[derive(Debug)]
pub(crate) struct Presence(ConnectionHandle);

impl Presence {
    pub(super) fn new(handle: ConnectionHandle) -> Self {
        Self(handle)
    }

    pub(crate) fn handle(&self) -> &ConnectionHandle {
        &self.0
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        // Its calls may outlive it a little, and stay a stranger's.
        self.0.leave_strangers();
    }
}

#[cfg(test)]
mod tests;
