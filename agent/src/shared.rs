//! What the session and the executor share: hints and latest values only.
//!
//! | field | what it says | where the truth is |
//! |---|---|---|
//! | `link` | a session is open, and how to download by it | in the session |
//! | `work` | a command was accepted | in the journal |
//! | `reports` | there is something to send | in the journal |
//! | `progress` | how far an attempt is | nowhere: only the newest matters |
//! | `settings` | what is in force | in the journal |
//!
//! Whatever must not be lost is in the journal. A hint only says: look there again.

use std::sync::Arc;

use parking_lot::Mutex;

use kernex_proto::{
    ids::AttemptId,
    v1::{self, report::Event},
};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::{link::Link, removal::Remover, settings::Settings};

/// Tokens that end an attempt from outside.
#[derive(Debug, Clone, Default)]
pub(crate) struct StopTokens {
    /// Ends everything except going back.
    pub(crate) work: CancellationToken,
    /// Ends going back.
    pub(crate) going_back: CancellationToken,
}

/// The attempt that the executor runs now.
struct RunningAttempt {
    id: AttemptId,
    stops: StopTokens,
    /// Nothing runs any more that a stop would end; the device may be going back.
    has_work_ended: bool,
}

/// Latest values and hints of one agent.
pub(crate) struct Shared {
    /// What downloads need of the session; none while no session is open.
    pub(crate) link: watch::Sender<Option<Link>>,
    /// A command was accepted: the executor has work.
    pub(crate) work: Notify,
    /// The journal holds a new report: the session has something to send.
    pub(crate) reports: Notify,
    /// The newest progress report.
    pub(crate) progress: watch::Sender<Option<v1::Report>>,
    pub(crate) settings: watch::Sender<Arc<Settings>>,
    /// Removes files, and knows what could not be removed.
    pub(crate) remover: Remover,
    running: Mutex<Option<RunningAttempt>>,
    device_name: Mutex<String>,
}

impl Shared {
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

    pub(crate) fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.borrow())
    }

    /// Notes which attempt runs. The tokens that are returned end it.
    pub(crate) fn set_running(&self, id: AttemptId) -> StopTokens {
        let stops = StopTokens::default();
        *self.running.lock() = Some(RunningAttempt {
            id,
            stops: stops.clone(),
            has_work_ended: false,
        });
        stops
    }

    pub(crate) fn clear_running(&self) {
        *self.running.lock() = None;
    }

    /// Notes that nothing of this attempt runs any more that a stop would end. That answers a stop,
    /// whether the stop comes before or after.
    pub(crate) fn mark_work_ended(&self, id: AttemptId) {
        if let Some(running) = self.running.lock().as_mut()
            && running.id == id
        {
            running.has_work_ended = true;
        }
        self.report_stopped(id);
    }

    /// Ends an attempt if it runs now, and returns whether it does. When it was ended before, that
    /// is reported again.
    pub(crate) fn stop(&self, id: AttemptId, going_back: bool) -> bool {
        let stops = {
            let running = self.running.lock();
            let Some(running) = running.as_ref().filter(|running| running.id == id) else {
                return false;
            };
            let going_back = going_back && running.has_work_ended;
            (
                running.stops.work.clone(),
                going_back.then(|| running.stops.going_back.clone()),
            )
        };
        stops.0.cancel();
        if let Some(going_back) = stops.1 {
            going_back.cancel();
        }
        self.report_stopped(id);
        true
    }

    /// Publishes how far an attempt is; only the newest report matters.
    pub(crate) fn report_progress(&self, id: AttemptId, mut progress: v1::Progress) {
        // Decided under the lock of `progress`: no older report can follow the one that says
        // stopped.
        self.progress.send_modify(|latest| {
            progress.stopped = self.is_stopped(id);
            *latest = Some(progress_report(id, progress));
        });
    }

    /// Publishes that a stop was carried out, if it was.
    fn report_stopped(&self, id: AttemptId) {
        self.progress.send_if_modified(|latest| {
            if !self.is_stopped(id) {
                return false;
            }
            let told = latest
                .as_ref()
                .filter(|told| told.attempt == Some(id.into()));
            let mut progress = match told.and_then(|told| told.event.clone()) {
                Some(Event::Progress(progress)) => progress,
                _ => v1::Progress {
                    step: v1::Step::Rollback.into(),
                    ..v1::Progress::default()
                },
            };
            progress.stopped = true;
            *latest = Some(progress_report(id, progress));
            true
        });
    }

    fn is_stopped(&self, id: AttemptId) -> bool {
        let running = self.running.lock();
        let running = running.as_ref().filter(|running| running.id == id);
        running.is_some_and(|running| running.has_work_ended && running.stops.work.is_cancelled())
    }

    /// The device's name in the newest Welcome.
    pub(crate) fn device_name(&self) -> String {
        self.device_name.lock().clone()
    }

    /// Keeps the name of a Welcome; an empty one changes nothing.
    pub(crate) fn set_device_name(&self, name: String) {
        if !name.is_empty() {
            *self.device_name.lock() = name;
        }
    }
}

/// A progress report, which is neither kept in the journal nor acknowledged.
pub(crate) fn progress_report(id: AttemptId, progress: v1::Progress) -> v1::Report {
    v1::Report {
        attempt: Some(id.into()),
        seq: 0,
        event: Some(Event::Progress(progress)),
        traceparent: String::new(),
        previous_outcome_seq: None,
    }
}
