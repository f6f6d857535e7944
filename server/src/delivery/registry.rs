//! Which device is here, in which session: a synchronous phone book under a short lock, newest
//! epoch wins.
//!
//! Nothing is sent, notified or awaited while the lock is held; callers take handles out and act on
//! them.

mod rate;

use std::{
    collections::{HashMap, HashSet},
    future::poll_fn,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};

use futures::task::AtomicWaker;
use kernex_proto::{
    ids::{AttemptId, DeviceId, JournalId},
    v1::{self, DeviceSessionResponse, device_session_response::Message},
};
use tokio::{
    sync::{Semaphore, mpsc},
    time::Instant,
};

use self::rate::MessageRate;
use crate::{
    domain::{attempt::UNHEARD, device::DiskFault},
    revocations::Cause,
};

/// Messages that may wait for one device. A session has a handful of commands and acks under way; a
/// peer that lets 64 pile up does not read, and more would only hide it.
///
/// They wait in boxes: the channel makes room for 32 at once, which is 8 KiB for messages and 256
/// bytes for boxes.
pub const OUTBOUND_QUEUE: usize = 64;

/// Reports of one session that are being recorded. One commit answers all of them, so their
/// acknowledgements have to fit into the queue together, with room for everything else.
const REPORTS_AT_ONCE: usize = OUTBOUND_QUEUE / 2;

/// Milliseconds between two changes of a disk's state that are noted in one session.
const DISK_CALM: u64 = 10_000;

/// Why the server ends a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// A newer session of the same device took over.
    Replaced,
    /// Its queue was full.
    SlowConsumer,
    /// The key it was opened with was revoked.
    Revoked(Cause),
    /// A report could not be written; the agent keeps it and sends it again in its next session.
    Unrecorded,
    /// The server stops.
    Drain {
        /// When the agent should come back.
        reconnect_after: Duration,
    },
}

/// The way into one session from outside.
#[derive(Debug)]
pub struct SessionHandle {
    /// The device.
    pub device: DeviceId,
    /// Number of the session.
    pub epoch: u64,
    /// The journal its reports are numbered in.
    pub journal: JournalId,
    outbound: mpsc::Sender<Box<DeviceSessionResponse>>,
    /// Milliseconds between heartbeats as the agent said; 0 as the server asked.
    heartbeat_ms: AtomicU64,
    opened: Instant,
    ended: OnceLock<EndReason>,
    /// Its agent cannot write its state folder: no commands go there.
    ailing: AtomicBool,
    /// What is known to be wrong with the disk of the state folder, as on the wire.
    disk_fault: AtomicI32,
    /// When that changed last, in milliseconds since the session opened; 0 is never.
    disk_changed: AtomicU64,
    /// Turns for reports.
    recording: Semaphore,
    /// In a box and made when it is needed: most sessions say nothing but heartbeats.
    rate: OnceLock<Box<MessageRate>>,
    /// The session's task.
    waiting: AtomicWaker,
}

/// A report of a session that is being recorded; its turn is free again when this is dropped.
#[derive(Debug)]
pub struct RecordingPermit(Arc<SessionHandle>);

impl Drop for RecordingPermit {
    fn drop(&mut self) {
        self.0.recording.add_permits(1);
    }
}

impl SessionHandle {
    /// A handle that fills `outbound`.
    #[must_use]
    pub fn new(
        device: DeviceId,
        epoch: u64,
        journal: JournalId,
        outbound: mpsc::Sender<Box<DeviceSessionResponse>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            device,
            epoch,
            journal,
            outbound,
            heartbeat_ms: AtomicU64::new(0),
            opened: Instant::now(),
            ended: OnceLock::new(),
            ailing: AtomicBool::new(false),
            disk_fault: AtomicI32::new(0),
            recording: Semaphore::new(REPORTS_AT_ONCE),
            rate: OnceLock::new(),
            disk_changed: AtomicU64::new(0),
            waiting: AtomicWaker::new(),
        })
    }

    /// The agent cannot write its state folder, so it takes no commands in this session.
    pub fn set_ailing(&self) {
        self.ailing.store(true, Ordering::Relaxed);
    }

    /// Whether its agent cannot write its state folder.
    #[must_use]
    pub fn is_ailing(&self) -> bool {
        self.ailing.load(Ordering::Relaxed)
    }

    /// What is known to be wrong with the disk of the agent's state folder.
    #[must_use]
    pub fn disk_fault(&self) -> Option<DiskFault> {
        let wire = v1::DiskFault::try_from(self.disk_fault.load(Ordering::Relaxed));
        wire.ok().and_then(DiskFault::from_wire)
    }

    /// Whether this is news. An agent that says something else with each heartbeat is heard every
    /// ten seconds.
    #[must_use]
    pub fn should_record_disk_fault(&self, fault: Option<DiskFault>) -> bool {
        if fault == self.disk_fault() {
            return false;
        }
        // From 1 on: 0 stands for never.
        let now = u64::try_from(self.opened.elapsed().as_millis())
            .unwrap_or(u64::MAX)
            .saturating_add(1);
        let last = self.disk_changed.load(Ordering::Relaxed);
        let is_calm = last == 0 || now - last.min(now) >= DISK_CALM;
        if is_calm {
            self.disk_changed.store(now, Ordering::Relaxed);
        }
        is_calm
    }

    /// This is known from now on.
    pub fn set_disk_fault(&self, fault: Option<DiskFault>) {
        let wire = fault.map_or(v1::DiskFault::Unspecified, v1::DiskFault::from);
        self.disk_fault.store(wire.into(), Ordering::Relaxed);
    }

    /// Counts a message of the device.
    pub fn count_message(&self) {
        self.rate.get_or_init(Box::default).count();
    }

    /// Whether the last message that was counted was one too many, and [`Self::wait_for_rate`] is
    /// to be waited for.
    #[must_use]
    pub fn exceeds_rate(&self) -> bool {
        self.rate.get().is_some_and(|rate| rate.is_exceeded())
    }

    /// Waits until the device may be heard again.
    pub async fn wait_for_rate(&self) {
        if let Some(rate) = self.rate.get() {
            rate.wait().await;
        }
    }

    /// Waits until one more of its reports may be recorded.
    pub async fn recording_permit(self: &Arc<Self>) -> RecordingPermit {
        // Nobody closes it.
        if let Ok(turn) = self.recording.acquire().await {
            turn.forget();
        }
        RecordingPermit(Arc::clone(self))
    }

    /// Time between heartbeats, when the agent said that it goes by one of its own.
    #[must_use]
    pub fn heartbeat(&self) -> Option<Duration> {
        match self.heartbeat_ms.load(Ordering::Relaxed) {
            0 => None,
            millis => Some(Duration::from_millis(millis)),
        }
    }

    /// The agent goes by this from now on; never longer than an hour, which is what a configuration
    /// may ask for.
    pub fn set_heartbeat(&self, interval: Duration) {
        let millis = interval.as_millis().min(3_600_000);
        let millis = u64::try_from(millis).unwrap_or(3_600_000);
        self.heartbeat_ms.store(millis, Ordering::Relaxed);
    }

    /// Queues a message; a full queue ends the session. Says whether it was queued: a command is
    /// not where the agent cannot write it down, and to a key that was revoked nothing is said.
    pub fn send(&self, message: Message) -> bool {
        let is_revoked = matches!(self.ended.get(), Some(EndReason::Revoked(_)));
        if is_revoked || (self.is_ailing() && matches!(message, Message::Command(_))) {
            return false;
        }
        let message = DeviceSessionResponse {
            message: Some(message),
        };
        match self.outbound.try_send(Box::new(message)) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.end(EndReason::SlowConsumer);
                false
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        }
    }

    /// Ends the session; the first reason stays.
    pub fn end(&self, why: EndReason) {
        if self.ended.set(why).is_ok() {
            self.waiting.wake();
        }
    }

    /// Waits until somebody ended the session; for one task at a time.
    pub async fn ended(&self) -> EndReason {
        poll_fn(|cx| {
            self.waiting.register(cx.waker());
            self.ended.get().copied().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

/// What was pushed into a session, so that each is pushed once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pushed {
    /// A deploy.
    Deploy(AttemptId),
    /// A further run of a deploy that was deferred.
    Run(AttemptId, u32),
    /// A stop, and whether it is to end going back as well.
    Stop(AttemptId, bool),
}

#[derive(Debug)]
struct LiveSession {
    handle: Arc<SessionHandle>,
    pushed: HashMap<Pushed, LastPush>,
}

#[derive(Debug, Clone, Copy)]
struct LastPush {
    /// Since when it could have been pushed.
    due: Instant,
    /// When it was pushed last, or when its attempt ended.
    last: Instant,
    ended: bool,
}

/// Device to live session.
#[derive(Debug, Default)]
pub struct Registry {
    sessions: Mutex<HashMap<DeviceId, LiveSession>>,
}

impl Registry {
    /// Makes the handle the device's session and ends the older one. Refused when a newer one is
    /// there.
    pub fn insert(&self, handle: Arc<SessionHandle>) -> bool {
        let older = {
            let mut sessions = self.lock();
            if let Some(present) = sessions.get(&handle.device)
                && present.handle.epoch >= handle.epoch
            {
                return false;
            }
            sessions.insert(
                handle.device,
                LiveSession {
                    handle,
                    pushed: HashMap::new(),
                },
            )
        };
        if let Some(older) = older {
            older.handle.end(EndReason::Replaced);
        }
        true
    }

    /// Takes the session out, unless a newer one has taken its place. Says whether it was there.
    pub fn remove(&self, device: DeviceId, epoch: u64) -> bool {
        let mut sessions = self.lock();
        let present = sessions
            .get(&device)
            .is_some_and(|entry| entry.handle.epoch == epoch);
        if present {
            sessions.remove(&device);
        }
        present
    }

    /// Ends the device's session, should it have been opened with a key that is revoked: up to this
    /// number. It is gone at once, so nothing is pushed into it any more.
    pub fn revoke(&self, device: DeviceId, epoch: u64, cause: Cause) {
        let revoked = {
            let mut sessions = self.lock();
            let present = sessions.get(&device);
            if present.is_none_or(|entry| entry.handle.epoch > epoch) {
                return;
            }
            sessions.remove(&device)
        };
        if let Some(entry) = revoked {
            entry.handle.end(EndReason::Revoked(cause));
        }
    }

    /// The live session of a device.
    #[must_use]
    pub fn get(&self, device: DeviceId) -> Option<Arc<SessionHandle>> {
        self.lock()
            .get(&device)
            .map(|entry| Arc::clone(&entry.handle))
    }

    /// Every device that is here, with the number of its session.
    #[must_use]
    pub fn online(&self) -> Vec<(DeviceId, u64)> {
        let sessions = self.lock();
        sessions
            .iter()
            .map(|(device, entry)| (*device, entry.handle.epoch))
            .collect()
    }

    /// Those of `devices` that are here.
    #[must_use]
    pub fn online_of(&self, devices: &HashSet<DeviceId>) -> Vec<(DeviceId, u64)> {
        let sessions = self.lock();
        devices
            .iter()
            .filter_map(|device| Some((*device, sessions.get(device)?.handle.epoch)))
            .collect()
    }

    /// How many devices are here.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// True when no device is here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Claims a push of this command in this session; `None` when it was pushed a short time ago or
    /// the session is gone.
    #[must_use]
    pub fn claim_push(
        &self,
        device: DeviceId,
        epoch: u64,
        what: Pushed,
        waited: Duration,
    ) -> Option<Arc<SessionHandle>> {
        let mut sessions = self.lock();
        let entry = sessions.get_mut(&device)?;
        if entry.handle.epoch != epoch || entry.handle.is_ailing() {
            return None;
        }
        let now = Instant::now();
        let here = entry.handle.opened.elapsed();
        let due = match entry.pushed.get(&what) {
            Some(push) if push.last.elapsed() < UNHEARD => return None,
            Some(push) => push.due,
            None => now.checked_sub(waited.min(here)).unwrap_or(now),
        };
        let push = LastPush {
            due,
            last: now,
            ended: false,
        };
        entry.pushed.insert(what, push);
        Some(Arc::clone(&entry.handle))
    }

    /// What was claimed is not pushed after all.
    pub fn unclaim_push(&self, device: DeviceId, epoch: u64, what: Pushed) {
        let mut sessions = self.lock();
        let entry = sessions.get_mut(&device);
        if let Some(entry) = entry.filter(|entry| entry.handle.epoch == epoch) {
            entry.pushed.remove(&what);
        }
    }

    /// How long ago this deploy could first have been pushed in the session it was pushed in; the
    /// time the device was away is not counted.
    #[must_use]
    pub fn waited_for_push(&self, device: DeviceId, attempt: AttemptId) -> Option<Duration> {
        let sessions = self.lock();
        let push = sessions
            .get(&device)?
            .pushed
            .get(&Pushed::Deploy(attempt))?;
        Some(push.due.elapsed())
    }

    /// An attempt closed. It stays claimed for a while, because whoever is about to push it may
    /// have read its row before that; a long session does not collect them.
    pub fn attempt_closed(&self, device: DeviceId, attempt: AttemptId) {
        let now = Instant::now();
        let mut sessions = self.lock();
        let Some(entry) = sessions.get_mut(&device) else {
            return;
        };
        entry
            .pushed
            .retain(|_, push| !push.ended || push.last.elapsed() < UNHEARD);
        let deploy = Pushed::Deploy(attempt);
        // It may have been pushed in an earlier session.
        entry.pushed.entry(deploy).or_insert(LastPush {
            due: now,
            last: now,
            ended: true,
        });
        for (pushed, push) in &mut entry.pushed {
            let (Pushed::Deploy(of) | Pushed::Run(of, _) | Pushed::Stop(of, _)) = pushed;
            if *of == attempt {
                (push.last, push.ended) = (now, true);
            }
        }
    }

    /// Ends every session, spread over time so that they do not come back in one wave.
    pub fn drain(&self, mut reconnect_after: impl FnMut() -> Duration) -> usize {
        let all: Vec<_> = {
            let sessions = self.lock();
            sessions
                .values()
                .map(|entry| Arc::clone(&entry.handle))
                .collect()
        };
        for handle in &all {
            handle.end(EndReason::Drain {
                reconnect_after: reconnect_after(),
            });
        }
        all.len()
    }

    /// What must hold at any moment; tests call it after each step.
    pub fn check_invariants(&self) -> Result<(), String> {
        for (device, entry) in self.lock().iter() {
            if entry.handle.device != *device {
                return Err(format!(
                    "{device} holds a session of {}",
                    entry.handle.device
                ));
            }
            if entry.handle.ended.get() == Some(&EndReason::Replaced) {
                return Err(format!("{device} holds a session that was replaced"));
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<DeviceId, LiveSession>> {
        // No code under this lock can leave the map half changed.
        self.sessions.lock()
    }
}

#[cfg(test)]
mod tests;
