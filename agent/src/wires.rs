//! How the session and the executor reach each other: hints and latest values only, nothing that could be lost.
//!
//! Whatever must not be lost is in the journal; a hint says "look again".

use std::sync::{Arc, Mutex, PoisonError};

use kernex_proto::{ids::AttemptId, v1};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::{removal::Remover, session::Link, settings::Settings};

/// The wires of one agent.
pub(crate) struct Wires {
    /// The session, while it is open.
    pub(crate) link: watch::Sender<Option<Link>>,
    /// Something was accepted.
    pub(crate) work: Notify,
    /// The journal holds a new report.
    pub(crate) reports: Notify,
    /// The newest progress report.
    pub(crate) progress: watch::Sender<Option<v1::Report>>,
    /// What the agent goes by.
    pub(crate) settings: watch::Sender<Arc<Settings>>,
    /// Removes what is not needed any more, and says what could not be removed.
    pub(crate) remover: Remover,
    running: Mutex<Option<(AttemptId, CancellationToken)>>,
    device_name: Mutex<String>,
}

impl Wires {
    /// Wires without a session.
    pub(crate) fn new(device_name: &str, settings: Settings, remover: Remover) -> Self {
        Self {
            link: watch::Sender::new(None),
            work: Notify::new(),
            reports: Notify::new(),
            progress: watch::Sender::new(None),
            settings: watch::Sender::new(Arc::new(settings)),
            remover,
            running: Mutex::new(None),
            device_name: Mutex::new(device_name.to_owned()),
        }
    }

    /// What the agent goes by now.
    pub(crate) fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.borrow())
    }

    /// Says which attempt is at work; the token ends it.
    pub(crate) fn set_running(&self, id: AttemptId) -> CancellationToken {
        let stop = CancellationToken::new();
        *lock(&self.running) = Some((id, stop.clone()));
        stop
    }

    /// Says that nothing is at work.
    pub(crate) fn clear_running(&self) {
        *lock(&self.running) = None;
    }

    /// Ends an attempt if it is the one at work.
    pub(crate) fn stop(&self, id: AttemptId) {
        let stop = lock(&self.running)
            .as_ref()
            .filter(|(running, _)| *running == id)
            .map(|(_, stop)| stop.clone());
        if let Some(stop) = stop {
            stop.cancel();
        }
    }

    /// The device's name, as the server last said it.
    pub(crate) fn device_name(&self) -> String {
        lock(&self.device_name).clone()
    }

    /// The server said the device's name.
    pub(crate) fn set_device_name(&self, name: String) {
        if !name.is_empty() {
            *lock(&self.device_name) = name;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
