//! Group commit: what many sessions say goes to the store in one transaction, and only then is it
//! acknowledged.
//!
//! Reports wait in a bounded queue; while one batch commits the next one gathers. Heartbeats and
//! progress are not queued: only the latest of each device and attempt is kept. When the store
//! fails, the batch stays here and is tried again; the sessions feel it as a full queue, and agents
//! as acks that are late.

mod heartbeat_cache;

use std::{
    collections::{HashMap, HashSet},
    slice,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;

use kernex_proto::{
    ids::{AttemptId, DeviceId},
    v1::{self, device_session_response::Message},
};
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;
use tracing::Span;

use self::heartbeat_cache::HeartbeatCache;
use crate::{
    crash::Act,
    delivery::{
        registry::{EndReason, RecordingPermit, Registry, SessionHandle},
        wake_ups::WakeUps,
    },
    error::chain,
    metrics::{Metrics, observe},
    store::{
        Store, StoreError,
        heartbeats::HeartbeatRow,
        reports::{IncomingReport, Place, ReportEvent},
    },
};

/// Reports that may wait for a commit. Some seconds of a busy fleet; beyond it sessions stop
/// reading until it moves.
const QUEUE: usize = 4096;
/// Reports in one transaction; keeps its time and memory bounded (an outcome carries up to 64 KiB
/// of output).
const BATCH: usize = 1024;
/// Longest time a heartbeat or a progress report waits for its write.
const FLUSH: Duration = Duration::from_secs(1);
/// Failures of a whole batch, not counting a store that does not answer, before its reports are
/// tried one by one.
const TOGETHER: u32 = 4;
/// Waits after a failed write: doubled from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// A report with the session that waits for its ack.
#[derive(Debug)]
pub struct Submission {
    /// The session.
    pub session: Arc<SessionHandle>,
    /// Its `seq`.
    pub seq: u64,
    /// Of an outcome: `seq` of the one before it in its journal, when the agent says.
    pub previous_outcome: Option<u64>,
    /// Which attempt.
    pub attempt: AttemptId,
    /// What happened.
    pub event: ReportEvent,
    /// The trace it belongs to; ends once the report is committed.
    pub span: Span,
    /// Its turn among the reports of its session.
    pub permit: RecordingPermit,
}

impl Submission {
    /// Where it stands among the outcomes of its journal, if it is one of them.
    fn place(&self) -> Option<Place> {
        let is_outcome = matches!(self.event, ReportEvent::Outcome(_));
        let after = self.previous_outcome.filter(|_| is_outcome)?;
        Some(Place {
            journal: self.session.journal,
            after,
            seq: self.seq,
        })
    }
}

/// The way in, shared by all sessions.
#[derive(Debug, Clone)]
pub struct Recorder {
    reports: mpsc::Sender<Submission>,
    latest: Arc<Latest>,
}

/// What only the newest of counts.
#[derive(Debug, Default)]
struct Latest {
    heartbeats: Mutex<HashMap<DeviceId, HeartbeatRow>>,
    progress: Mutex<HashMap<(DeviceId, AttemptId), (u64, v1::Progress)>>,
    changed: Notify,
}

/// How much waits for its write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backlog {
    /// Reports in the queue.
    pub reports: usize,
    /// Devices with a heartbeat.
    pub heartbeats: usize,
    /// Attempts with progress.
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
        let worker = Worker {
            store,
            registry,
            wake_ups,
            metrics,
            latest: Arc::clone(&latest),
            cache: HeartbeatCache::default(),
        };
        (Self { reports, latest }, worker.run(queue, stop))
    }

    /// Queues a report; waits while the queue is full. False when the recorder has stopped.
    pub async fn report(&self, submission: Submission) -> bool {
        if matches!(submission.event, ReportEvent::Outcome(_))
            && let Some(row) = self
                .latest
                .heartbeats
                .lock()
                .get_mut(&submission.session.device)
        {
            // It was sent before the outcome, and is written after it.
            row.releases = None;
        }
        if matches!(submission.event, ReportEvent::Progress(_)) {
            // It is newer.
            let of = (submission.session.device, submission.attempt);
            self.latest.progress.lock().remove(&of);
        }
        self.reports.send(submission).await.is_ok()
    }

    /// What waits for its write.
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

    /// Drops the heartbeat that waits, should it be of a session up to this number: its key is
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

    /// Keeps the latest progress of an attempt, said in the session of this number, for the next
    /// write.
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

struct Worker {
    store: Store,
    registry: Arc<Registry>,
    wake_ups: Arc<WakeUps>,
    metrics: Arc<Metrics>,
    latest: Arc<Latest>,
    cache: HeartbeatCache,
}

impl Worker {
    async fn run(mut self, mut queue: mpsc::Receiver<Submission>, stop: CancellationToken) {
        let mut flush = tokio::time::interval(FLUSH);
        flush.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH);
        // Progress is shown live but need not be written for each chunk.
        let mut progress_due = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                // Takes everything that waits, up to a batch; cancel-safe.
                count = queue.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        break;
                    }
                    self.commit(&mut batch, &mut queue, &stop).await;
                }
                _ = flush.tick() => self.flush_heartbeats().await,
                () = self.latest.changed.notified(), if Instant::now() >= progress_due => {
                    progress_due = Instant::now() + FLUSH / 4;
                    self.commit(&mut batch, &mut queue, &stop).await;
                }
                () = tokio::time::sleep_until(progress_due), if Instant::now() < progress_due => {}
            }
        }
        // The last round: nobody sends any more, one attempt each.
        queue.close();
        while queue.recv_many(&mut batch, BATCH).await > 0 {
            self.commit(&mut batch, &mut queue, &stop).await;
        }
        self.commit(&mut batch, &mut queue, &stop).await;
        self.flush_heartbeats().await;
    }

    /// Writes the batch and what progress there is, again and again until it is written; then
    /// acknowledges.
    async fn commit(
        &mut self,
        batch: &mut Vec<Submission>,
        queue: &mut mpsc::Receiver<Submission>,
        stop: &CancellationToken,
    ) {
        let progress: Vec<_> = self.latest.progress.lock().drain().collect();
        // What a session said before that waits in the queue by now, and comes first.
        while batch.len() < BATCH
            && let Ok(submission) = queue.try_recv()
        {
            batch.push(submission);
        }
        let rows = rows(batch, progress);
        if rows.is_empty() {
            return;
        }
        self.metrics.report_flush.observe(rows.len() as f64);
        for row in &rows {
            if matches!(row.event, ReportEvent::Outcome(_)) {
                self.cache.forget_match(row.device);
            }
        }
        let dispositions = self.apply(rows, stop).await;
        let mut moved = HashSet::new();
        for (report, disposition) in batch.drain(..).zip(dispositions) {
            let device = report.session.device;
            let Some(disposition) = disposition else {
                // The agent still has it and sends it again in its next session, unless its key is
                // revoked.
                report.session.end(EndReason::Unrecorded);
                continue;
            };
            report.span.in_scope(|| {
                tracing::debug!(seq = report.seq, ?disposition, "report recorded");
            });
            if matches!(report.event, ReportEvent::Accepted)
                && disposition == v1::Disposition::Applied
                && let Some(waited) = self.registry.waited_for_push(device, report.attempt)
            {
                observe(&self.metrics.push, waited);
            }
            if disposition == v1::Disposition::Applied {
                self.store.in_flight().mark_answered(report.attempt);
            }
            // What was known before makes nothing due, and what was pushed stays pushed.
            let is_duplicate = matches!(disposition, v1::Disposition::Duplicate);
            if matches!(report.event, ReportEvent::Outcome(_)) && !is_duplicate {
                self.registry.attempt_closed(device, report.attempt);
                moved.insert(device);
            }
            // What has no number is not kept by the agent either.
            if report.seq != 0 {
                let ack = v1::Ack {
                    seq: report.seq,
                    disposition: disposition.into(),
                };
                Act::AckReport.before();
                report.session.send(Message::Ack(ack));
                Act::AckReport.after();
            }
        }
        // An attempt that ended may make the next one of its device due, or the next phase of its
        // deployment.
        if !moved.is_empty() {
            self.wake_ups.wake_rollouts();
        }
        self.wake_ups.wake_devices(moved);
    }

    /// Applies the rows together. Waits for a store that does not answer; when it answers with an
    /// error, the rows are tried one by one, so that one that trips over a defect does not hold up
    /// the fleet. `None` was not written, and never will be when its key is revoked.
    async fn apply(
        &self,
        rows: Vec<IncomingReport>,
        stop: &CancellationToken,
    ) -> Vec<Option<v1::Disposition>> {
        let mut wait = BACKOFF.0;
        let mut failures = 0;
        loop {
            let error = match self.store.apply_reports(&rows).await {
                Ok(dispositions) => return dispositions,
                Err(error) => error,
            };
            if !matches!(error, StoreError::Unavailable(_)) {
                failures += 1;
            }
            if stop.is_cancelled() {
                tracing::error!(error = %chain(&error), reports = rows.len(), "reports not written; agents send them again");
                return vec![None; rows.len()];
            }
            if failures == TOGETHER {
                return self.apply_each(rows).await;
            }
            tracing::warn!(error = %chain(&error), reports = rows.len(), wait_ms = wait.as_millis() as u64, "reports wait for the store");
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stop.cancelled() => {}
            }
            wait = (wait * 2).min(BACKOFF.1);
        }
    }

    async fn apply_each(&self, rows: Vec<IncomingReport>) -> Vec<Option<v1::Disposition>> {
        let mut dispositions = Vec::with_capacity(rows.len());
        for row in rows {
            let (device, attempt) = (row.device, row.attempt);
            let applied = match self.store.apply_reports(slice::from_ref(&row)).await {
                Ok(applied) => applied.first().copied().flatten(),
                Err(error) => {
                    tracing::error!(%device, command = %attempt, error = %chain(&error), "a report cannot be recorded");
                    None
                }
            };
            dispositions.push(applied);
        }
        dispositions
    }

    async fn flush_heartbeats(&mut self) {
        let now = Instant::now();
        let waiting: Vec<_> = self.latest.heartbeats.lock().drain().collect();
        let mut rows: Vec<_> = waiting.into_iter().map(|(_, row)| row).collect();
        if rows.is_empty() {
            return;
        }
        for row in &mut rows {
            self.cache.fill_row(row, now);
        }
        self.metrics.heartbeat_flush.observe(rows.len() as f64);
        match self.store.record_heartbeats(&rows).await {
            Ok(recorded) => {
                self.cache.learn_written(&rows, &recorded, now);
                self.cache.drop_old(self.registry.len(), now);
            }
            Err(error) => {
                tracing::warn!(error = %chain(&error), devices = rows.len(), "heartbeats wait for the store");
                let mut heartbeats = self.latest.heartbeats.lock();
                for mut row in rows {
                    // An outcome may have come meanwhile, and so may a newer one.
                    row.releases = None;
                    heartbeats.entry(row.device).or_insert(row);
                }
            }
        }
    }
}

/// The reports in order, then the progress of attempts of which they say nothing newer.
fn rows(
    batch: &[Submission],
    progress: Vec<((DeviceId, AttemptId), (u64, v1::Progress))>,
) -> Vec<IncomingReport> {
    let is_newer =
        |event: &ReportEvent| matches!(event, ReportEvent::Outcome(_) | ReportEvent::Progress(_));
    let told: HashSet<_> = batch
        .iter()
        .filter(|report| is_newer(&report.event))
        .map(|report| (report.session.device, report.attempt))
        .collect();
    let progress = progress
        .into_iter()
        .filter(|(of, _)| !told.contains(of))
        .map(|((device, attempt), (epoch, progress))| IncomingReport {
            device,
            epoch,
            attempt,
            event: ReportEvent::Progress(progress),
            place: None,
        });
    let reports = batch.iter().map(|report| IncomingReport {
        device: report.session.device,
        epoch: report.session.epoch,
        attempt: report.attempt,
        event: report.event.clone(),
        place: report.place(),
    });
    reports.chain(progress).collect()
}

#[cfg(test)]
mod tests;
