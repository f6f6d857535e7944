//! Group commit: one transaction writes what many sessions said. Only then is it acknowledged.
//!
//! Reports wait in a bounded queue, and the next batch gathers while one commits. Heartbeats and
//! progress are not queued: only the latest of each device or attempt is kept. When the store
//! fails, the batch stays here and is tried again. Sessions notice a full queue, and agents notice
//! late acknowledgements.

mod heartbeat_cache;
mod worker;

use std::{collections::HashMap, sync::Arc};

use kernex_proto::{
    ids::{AttemptId, DeviceId},
    v1,
};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::Span;

use self::worker::Worker;
use crate::{
    delivery::{
        registry::{RecordingPermit, Registry, SessionHandle},
        wake_ups::WakeUps,
    },
    metrics::Metrics,
    store::{HeartbeatRow, ReportEvent, ReportPlace, Store},
};

/// Reports that may wait for a commit: some seconds of a busy fleet. When the queue is full,
/// sessions stop reading until there is room.
const QUEUE: usize = 4096;

/// A report, and the session that waits for its acknowledgement.
#[derive(Debug)]
pub struct Submission {
    pub session: Arc<SessionHandle>,
    pub seq: u64,
    /// `seq` of the outcome before this one in its journal, if this is an outcome and the agent
    /// says so.
    pub previous_outcome: Option<u64>,
    pub attempt: AttemptId,
    pub event: ReportEvent,
    /// The span of the report's trace. It ends once the report is committed.
    pub span: Span,
    /// Makes room for the next report of its session when dropped.
    pub permit: RecordingPermit,
}

impl Submission {
    /// Which outcome of its journal it is; `None` for other reports.
    fn place(&self) -> Option<ReportPlace> {
        let is_outcome = matches!(self.event, ReportEvent::Outcome(_));
        let after = self.previous_outcome.filter(|_| is_outcome)?;
        Some(ReportPlace {
            journal: self.session.journal,
            after,
            seq: self.seq,
        })
    }
}

#[derive(Debug, Clone)]
pub struct Recorder {
    reports: mpsc::Sender<Submission>,
    latest: Arc<Latest>,
}

/// Values of which only the newest counts.
#[derive(Debug, Default)]
struct Latest {
    heartbeats: Mutex<HashMap<DeviceId, HeartbeatRow>>,
    progress: Mutex<HashMap<(DeviceId, AttemptId), (u64, v1::Progress)>>,
    changed: Notify,
}

/// What waits for its write, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backlog {
    /// In the queue.
    pub reports: usize,
    /// Devices whose heartbeat waits.
    pub heartbeats: usize,
    /// Attempts whose progress waits.
    pub progress: usize,
}

impl Recorder {
    /// A recorder and the future that does its work until `stop`, after which it writes what is
    /// left.
    pub fn new(
        store: Store,
        registry: Arc<Registry>,
        wake_ups: Arc<WakeUps>,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (reports, queue) = mpsc::channel(QUEUE);
        let latest = Arc::new(Latest::default());
        let worker = Worker::new(store, registry, wake_ups, metrics, Arc::clone(&latest));
        (Self { reports, latest }, worker.run(queue, stop))
    }

    /// Queues a report, and waits while the queue is full. False when the recorder has stopped.
    pub async fn report(&self, submission: Submission) -> bool {
        if matches!(submission.event, ReportEvent::Outcome(_))
            && let Some(row) = self
                .latest
                .heartbeats
                .lock()
                .get_mut(&submission.session.device)
        {
            // The heartbeat was sent before the outcome, and is written after it.
            row.releases = None;
        }
        if matches!(submission.event, ReportEvent::Progress(_)) {
            // The outcome is newer than the progress.
            let of = (submission.session.device, submission.attempt);
            self.latest.progress.lock().remove(&of);
        }
        self.reports.send(submission).await.is_ok()
    }

    #[must_use]
    pub fn backlog(&self) -> Backlog {
        Backlog {
            reports: self.reports.max_capacity() - self.reports.capacity(),
            heartbeats: self.latest.heartbeats.lock().len(),
            progress: self.latest.progress.lock().len(),
        }
    }

    /// Keeps the latest heartbeat of a device for the next write.
    pub fn heartbeat(&self, row: HeartbeatRow) {
        let mut heartbeats = self.latest.heartbeats.lock();
        match heartbeats.get(&row.device) {
            Some(newer) if newer.epoch > row.epoch => {}
            _ => {
                heartbeats.insert(row.device, row);
            }
        }
    }

    /// Drops the heartbeat that waits if its session has at most this number, because its key is
    /// revoked.
    pub fn drop_heartbeat(&self, device: DeviceId, epoch: u64) {
        let mut heartbeats = self.latest.heartbeats.lock();
        if heartbeats
            .get(&device)
            .is_some_and(|row| row.epoch <= epoch)
        {
            heartbeats.remove(&device);
        }
    }

    /// Keeps the latest progress of an attempt for the next write. It was reported in the session
    /// `epoch`.
    pub fn progress(
        &self,
        device: DeviceId,
        epoch: u64,
        attempt: AttemptId,
        progress: v1::Progress,
    ) {
        self.latest
            .progress
            .lock()
            .insert((device, attempt), (epoch, progress));
        self.latest.changed.notify_one();
    }
}

#[cfg(test)]
mod tests;
