//! The way into one session from outside: its bounded queue, its end, and what is known of its
//! agent. Those who push, record or revoke have one of these. The session's own task only waits for
//! the end.

use std::{
    future::poll_fn,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};

use futures::task::AtomicWaker;
use kernex_proto::{
    ids::{DeviceId, JournalId},
    v1::{self, DeviceSessionResponse, device_session_response::Message},
};
use tokio::{
    sync::{Semaphore, mpsc},
    time::Instant,
};

use super::rate::MessageRate;
use crate::{delivery::end_reason::EndReason, domain::device::DiskFault};

/// Messages that may wait for one device. A session has a handful of commands and acknowledgements
/// under way. A peer that lets 64 pile up does not read, and a longer queue would only hide that.
///
/// They wait in boxes, because the channel makes room for 32 of them at once: 256 bytes for boxes,
/// 8 KiB for messages.
pub const OUTBOUND_QUEUE: usize = 64;

/// Reports of one session that are being recorded at a time. One commit answers all of them, so all
/// their acknowledgements have to fit into the queue beside everything else.
const REPORTS_AT_ONCE: usize = OUTBOUND_QUEUE / 2;

/// Milliseconds between two changes of a disk's state that are noted in one session.
const DISK_CALM: u64 = 10_000;

#[derive(Debug)]
pub struct SessionHandle {
    pub device: DeviceId,
    pub epoch: u64,
    /// The journal that numbers its reports.
    pub journal: JournalId,
    outbound: mpsc::Sender<Box<DeviceSessionResponse>>,
    /// Milliseconds between heartbeats as the agent said; 0 when it keeps to what the server asked
    /// for.
    heartbeat_ms: AtomicU64,
    pub(super) opened: Instant,
    pub(super) ended: OnceLock<EndReason>,
    /// Its agent cannot write its state folder. No commands are sent to it.
    ailing: AtomicBool,
    /// The fault of the state folder's disk that is recorded, as the number on the wire.
    disk_fault: AtomicI32,
    /// When that changed last, in milliseconds since the session opened; 0 for never.
    disk_changed: AtomicU64,
    /// One permit for each report that may be recorded at a time.
    recording: Semaphore,
    /// Made when it is needed, and in a box: most sessions send nothing but heartbeats.
    rate: OnceLock<Box<MessageRate>>,
    /// Wakes the session's task.
    waiting: AtomicWaker,
}

/// A report of a session that is being recorded. Dropping it makes room for the next one.
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

    /// The agent cannot write its state folder. It takes no commands in this session.
    pub fn set_ailing(&self) {
        self.ailing.store(true, Ordering::Relaxed);
    }

    #[must_use]
    pub fn is_ailing(&self) -> bool {
        self.ailing.load(Ordering::Relaxed)
    }

    /// What is known to be wrong with the disk of the agent's state folder.
    #[must_use]
    pub fn disk_fault(&self) -> Option<DiskFault> {
        let wire = v1::DiskFault::try_from(self.disk_fault.load(Ordering::Relaxed));
        wire.ok().and_then(|fault| DiskFault::try_from(fault).ok())
    }

    /// Whether this fault is news that has to be recorded. An agent that says something else with
    /// each heartbeat is recorded every ten seconds at most.
    #[must_use]
    pub fn should_record_disk_fault(&self, fault: Option<DiskFault>) -> bool {
        if fault == self.disk_fault() {
            return false;
        }
        // At least 1, because 0 stands for never.
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

    /// Remembers the fault that is recorded.
    pub fn set_disk_fault(&self, fault: Option<DiskFault>) {
        let wire = fault.map_or(v1::DiskFault::Unspecified, v1::DiskFault::from);
        self.disk_fault.store(wire.into(), Ordering::Relaxed);
    }

    /// Counts a message of the device.
    pub fn count_message(&self) {
        self.rate.get_or_init(Box::default).count();
    }

    /// Whether the last message that was counted was one too many. Then [`Self::wait_for_rate`] has
    /// to be called before the next one is read.
    #[must_use]
    pub fn exceeds_rate(&self) -> bool {
        self.rate.get().is_some_and(|rate| rate.is_exceeded())
    }

    /// Waits until the next message may be read.
    pub async fn wait_for_rate(&self) {
        if let Some(rate) = self.rate.get() {
            rate.wait().await;
        }
    }

    /// Waits until one more report may be recorded.
    pub async fn recording_permit(self: &Arc<Self>) -> RecordingPermit {
        // The semaphore is never closed.
        if let Ok(turn) = self.recording.acquire().await {
            turn.forget();
        }
        RecordingPermit(Arc::clone(self))
    }

    /// Time between heartbeats that the agent said it keeps. `None` when it keeps to what the
    /// server asked for.
    #[must_use]
    pub fn heartbeat(&self) -> Option<Duration> {
        match self.heartbeat_ms.load(Ordering::Relaxed) {
            0 => None,
            millis => Some(Duration::from_millis(millis)),
        }
    }

    /// The agent keeps this time between heartbeats from now on. At most an hour counts, the
    /// longest that a configuration may ask for.
    pub fn set_heartbeat(&self, interval: Duration) {
        let millis = interval.as_millis().min(3_600_000);
        let millis = u64::try_from(millis).unwrap_or(3_600_000);
        self.heartbeat_ms.store(millis, Ordering::Relaxed);
    }

    /// Queues a message and says whether it was queued. A full queue ends the session. No command
    /// goes to an agent that cannot write its state folder, and nothing to a session whose key is
    /// revoked.
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

    /// Waits until somebody ends the session. Only one task may wait.
    pub async fn ended(&self) -> EndReason {
        poll_fn(|cx| {
            self.waiting.register(cx.waker());
            self.ended.get().copied().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}
