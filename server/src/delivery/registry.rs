//! Which device is here, and in which session. A phone book under a short lock; the newest epoch
//! wins.
//!
//! Nothing is sent, notified or awaited while the lock is held; callers take handles out and act on
//! them.

mod rate;
mod session_handle;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use kernex_proto::ids::{AttemptId, DeviceId};
use parking_lot::Mutex;
use tokio::time::Instant;

pub use self::session_handle::{OUTBOUND_QUEUE, RecordingPermit, SessionHandle};
pub use super::end_reason::EndReason;
use crate::{domain::attempt::UNHEARD, revocations::Cause};

/// What was pushed into a session, so that each is pushed once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pushed {
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
    /// When it could have been pushed for the first time.
    due: Instant,
    /// When it was pushed last, or when its attempt ended.
    last: Instant,
    ended: bool,
}

/// The live session of each device that is here.
#[derive(Debug, Default)]
pub struct Registry {
    sessions: Mutex<HashMap<DeviceId, LiveSession>>,
}

impl Registry {
    /// Makes the handle the device's session and ends the older one. False when a newer one is
    /// there.
    pub fn insert(&self, handle: Arc<SessionHandle>) -> bool {
        let older = {
            let mut sessions = self.sessions.lock();
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

    /// Takes the session out, unless a newer one has taken its place. True when it was there.
    pub fn remove(&self, device: DeviceId, epoch: u64) -> bool {
        let mut sessions = self.sessions.lock();
        let present = sessions
            .get(&device)
            .is_some_and(|entry| entry.handle.epoch == epoch);
        if present {
            sessions.remove(&device);
        }
        present
    }

    /// Ends the device's session if its number is at most `epoch`, because the key it was opened
    /// with is revoked. It leaves the registry at once, so nothing more is pushed into it.
    pub fn revoke(&self, device: DeviceId, epoch: u64, cause: Cause) {
        let revoked = {
            let mut sessions = self.sessions.lock();
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
        self.sessions
            .lock()
            .get(&device)
            .map(|entry| Arc::clone(&entry.handle))
    }

    /// Every device that is here, with the number of its session.
    #[must_use]
    pub fn online(&self) -> Vec<(DeviceId, u64)> {
        let sessions = self.sessions.lock();
        sessions
            .iter()
            .map(|(device, entry)| (*device, entry.handle.epoch))
            .collect()
    }

    /// Those of `devices` that are here.
    #[must_use]
    pub fn online_of(&self, devices: &HashSet<DeviceId>) -> Vec<(DeviceId, u64)> {
        let sessions = self.sessions.lock();
        devices
            .iter()
            .filter_map(|device| Some((*device, sessions.get(device)?.handle.epoch)))
            .collect()
    }

    /// How many devices are here.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sessions.lock().len()
    }

    /// True when no device is here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sessions.lock().is_empty()
    }

    /// Claims a push of this command in this session. `None` when it was pushed a short time ago,
    /// or when the session is gone.
    #[must_use]
    pub fn claim_push(
        &self,
        device: DeviceId,
        epoch: u64,
        what: Pushed,
        waited: Duration,
    ) -> Option<Arc<SessionHandle>> {
        let mut sessions = self.sessions.lock();
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

    /// Gives up a claim: the command is not pushed after all.
    pub fn unclaim_push(&self, device: DeviceId, epoch: u64, what: Pushed) {
        let mut sessions = self.sessions.lock();
        let entry = sessions.get_mut(&device);
        if let Some(entry) = entry.filter(|entry| entry.handle.epoch == epoch) {
            entry.pushed.remove(&what);
        }
    }

    /// Time since this deploy could first have been pushed in its session. The time that the device
    /// was away before does not count.
    #[must_use]
    pub fn waited_for_push(&self, device: DeviceId, attempt: AttemptId) -> Option<Duration> {
        let sessions = self.sessions.lock();
        let push = sessions
            .get(&device)?
            .pushed
            .get(&Pushed::Deploy(attempt))?;
        Some(push.due.elapsed())
    }

    /// Closes an attempt. Its claim stays for a while: somebody may be about to push it who read
    /// its row before that. Then it is dropped, so that a long session does not collect claims.
    pub fn attempt_closed(&self, device: DeviceId, attempt: AttemptId) {
        let now = Instant::now();
        let mut sessions = self.sessions.lock();
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
            let sessions = self.sessions.lock();
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

    /// Says what is wrong, if anything is. Tests call it after each step.
    pub fn check_invariants(&self) -> Result<(), String> {
        for (device, entry) in self.sessions.lock().iter() {
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
}

#[cfg(test)]
mod tests;
