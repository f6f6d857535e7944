//! How the session and the executor reach each other: hints and latest values only, nothing that
//! could be lost.
//!
//! Whatever must not be lost is in the journal; a hint says "look again".

use std::sync::Arc;

use parking_lot::Mutex;

use kernex_proto::{
    ids::AttemptId,
    v1::{self, report::Event},
};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::{link::Link, removal::Remover, settings::Settings};

/// What ends an attempt from outside.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stops {
    /// All of it but going back.
    pub(crate) work: CancellationToken,
    /// Going back.
    pub(crate) going_back: CancellationToken,
}

/// The attempt at work.
struct Running {
    id: AttemptId,
    stops: Stops,
    /// Nothing that a stop ends runs any more.
    has_work_ended: bool,
}

/// Latest values and hints of one agent.
pub(crate) struct Shared {
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
    running: Mutex<Option<Running>>,
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

    /// What the agent goes by now.
    pub(crate) fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.borrow())
    }

    /// Says which attempt is at work; the tokens end it.
    pub(crate) fn set_running(&self, id: AttemptId) -> Stops {
        let stops = Stops::default();
        *self.running.lock() = Some(Running {
            id,
            stops: stops.clone(),
            has_work_ended: false,
        });
        stops
    }

    /// Says that nothing is at work.
    pub(crate) fn clear_running(&self) {
        *self.running.lock() = None;
    }

    /// Says that nothing which a stop ends runs of this attempt any more. A stop is answered by
    /// that, whether it comes before or after.
    pub(crate) fn mark_work_ended(&self, id: AttemptId) {
        if let Some(running) = self.running.lock().as_mut()
            && running.id == id
        {
            running.has_work_ended = true;
        }
        self.report_stopped(id);
    }

    /// Ends an attempt if it is the one at work, which is what it returns. One that has been ended
    /// already says so again.
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

    /// Tells how far an attempt is; only the newest matters.
    pub(crate) fn report_progress(&self, id: AttemptId, mut progress: v1::Progress) {
        // Asked while nobody else can tell, so that nothing older is told after a stop was.
        self.progress.send_modify(|latest| {
            progress.stopped = self.is_stopped(id);
            *latest = Some(progress_report(id, progress));
        });
    }

    /// Tells that a stop was carried out, if it was.
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

    /// The device's name, as the server last said it.
    pub(crate) fn device_name(&self) -> String {
        self.device_name.lock().clone()
    }

    /// The server said the device's name.
    pub(crate) fn set_device_name(&self, name: String) {
        if !name.is_empty() {
            *self.device_name.lock() = name;
        }
    }
}

/// How far an attempt is, as a report; it is neither kept nor acknowledged.
pub(crate) fn progress_report(id: AttemptId, progress: v1::Progress) -> v1::Report {
    v1::Report {
        attempt: Some(id.into()),
        seq: 0,
        event: Some(Event::Progress(progress)),
        traceparent: String::new(),
        previous_outcome_seq: None,
    }
}
