//! A handle of a connection: for the calls on it, and for those who decide whether it may stay.

use std::{
    future::poll_fn,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, AtomicU16, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures::task::AtomicWaker;
use tonic::Status;

use super::{guesses::Credential, source::Source};
use crate::error::busy;

/// When to try again what too many do at once.
const BUSY: Duration = Duration::from_secs(1);

/// Unfinished calls a stranger may have.
pub(super) const STRANGER_CALLS: u16 = 8;
/// Unfinished watches of the server's health on one connection, whosever it is.
const WATCHES: u8 = 4;

/// Something on it has authenticated.
const KNOWN: u8 = 1;
/// It may be served.
const INSIDE: u8 = 2;
/// Something on it failed to authenticate.
const FAILED: u8 = 4;
/// It is no longer counted among the strangers.
const LEFT: u8 = 8;

/// Who watches over connections on which nothing has authenticated, each known by its number.
pub(super) trait Watch: std::fmt::Debug + Send + Sync {
    /// Says where the caller of a connection is.
    fn locate(&self, number: u64, source: Source);
    /// A connection has authenticated or is gone.
    fn forget(&self, number: u64);
    /// Takes one of a source's failures, or says when there will be one.
    fn may_guess(&self, credential: Credential, source: Source) -> Result<(), Duration>;
    /// A stranger was refused for this reason.
    fn refused(&self, source: Source, reason: &'static str, detail: &dyn std::fmt::Display);
}

/// Found in the extensions of each request. Clones mean the same connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct ConnectionHandle(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    address: OnceLock<SocketAddr>,
    /// Why it is to be closed, once it is.
    why: OnceLock<&'static str>,
    task: AtomicWaker,
    flags: AtomicU8,
    watches: AtomicU8,
    calls: AtomicU16,
    /// Who keeps the strangers, and its number among them.
    stranger: OnceLock<(Arc<dyn Watch>, u64)>,
}

impl ConnectionHandle {
    /// Makes the connection one of the strangers, by its number.
    pub(super) fn set_stranger(&self, strangers: Arc<dyn Watch>, number: u64) {
        let _ = self.0.stranger.set((strangers, number));
    }

    /// Closes the connection with everything on it, for a peer that would not take a smaller end.
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

    /// Waits until somebody closes it; for its task, which is the only one that may wait.
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

    fn has(&self, flag: u8) -> bool {
        self.0.flags.load(SeqCst) & flag != 0
    }

    /// Sets a flag and says whether it was not set before.
    fn set(&self, flag: u8) -> bool {
        self.0.flags.fetch_or(flag, SeqCst) & flag == 0
    }

    /// Where the caller is, which a trusted proxy may have told.
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

    /// Tells where the caller is, and waits until a stranger from there may come inside. For its
    /// task.
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

    /// Lets a waiting stranger come inside.
    pub(super) fn admit(&self) {
        self.set(INSIDE);
        self.0.task.wake();
    }

    /// Whether nothing on it has authenticated.
    pub(crate) fn is_stranger(&self) -> bool {
        !self.has(KNOWN)
    }

    /// Something on it has authenticated: it has no time limit any more and does not count for its
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

    /// Whether a try to authenticate goes on to be checked. A connection on which nothing failed
    /// yet always has its try, so whoever is right gets in, whatever others at the same address do.
    /// Further tries are paid in advance.
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
            // The first failure is counted afterwards, because it was tried without a count.
            let _ = self.pay_for_try(credential);
        }
    }

    fn pay_for_try(&self, credential: Credential) -> Result<(), Duration> {
        let strangers = self.0.stranger.get();
        strangers.map_or(Ok(()), |(strangers, _)| {
            strangers.may_guess(credential, self.source())
        })
    }

    /// A stranger was refused: counted, and told once a source and minute.
    pub(crate) fn refused(&self, reason: &'static str, detail: &dyn std::fmt::Display) {
        if let Some((strangers, _)) = self.0.stranger.get() {
            strangers.refused(self.source(), reason, detail);
        }
    }

    /// [`Self::refused`], when where the caller is will never be known.
    pub(crate) fn refused_at(
        &self,
        address: SocketAddr,
        reason: &'static str,
        detail: &dyn std::fmt::Display,
    ) {
        let _ = self.0.address.set(address);
        self.refused(reason, detail);
    }

    /// One more call, or why there cannot be one. What is given back counts until it is dropped.
    pub(super) fn begin_call(&self, watches_health: bool) -> Result<Option<OpenCall>, Status> {
        let stranger = self.is_stranger();
        if !stranger && !watches_health {
            return Ok(None);
        }
        // Only this connection's task begins calls, so nobody counts between the look and the step.
        if stranger && self.0.calls.load(SeqCst) >= STRANGER_CALLS {
            return Err(busy(
                "too many unfinished calls on a connection on which none has authenticated",
                BUSY,
            ));
        }
        if watches_health && self.0.watches.load(SeqCst) >= WATCHES {
            return Err(busy(
                "too many watches of the server's health on one connection",
                BUSY,
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

/// Held by whoever has the connection; once it is dropped, the connection is gone.
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
        // Its calls may outlive it a little, and are a stranger's all the same.
        self.0.leave_strangers();
    }
}

#[cfg(test)]
mod tests;
