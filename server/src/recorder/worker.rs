//! The one task that writes. It gathers a batch while the one before commits, and writes it in one
//! transaction. Then it acknowledges it and wakes those who wait for attempts to end.

use std::{collections::HashSet, slice, sync::Arc, time::Duration};

use kernex_proto::{
    ids::{AttemptId, DeviceId},
    v1::{self, device_session_response::Message},
    words,
};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use super::{Latest, Submission, heartbeat_cache::HeartbeatCache};
use crate::{
    backoff::doubling,
    crash::Act,
    delivery::{
        registry::{EndReason, Registry},
        wake_ups::WakeUps,
    },
    domain::attempt::{Ending, FailureReason},
    error::chain,
    log_queue::LogQueue,
    metrics::{Metrics, observe},
    store::{CachedHeartbeat, IncomingReport, ReportEvent, Store, StoreError},
};

/// Reports in one transaction. The limit keeps its time and its memory bounded: an outcome carries
/// up to 64 KiB of output.
const BATCH: usize = 1024;
/// Longest time a heartbeat or a progress report waits for its write.
const FLUSH: Duration = Duration::from_secs(1);
/// Failed tries of a whole batch after which its reports are tried one by one. A store that does
/// not answer does not count.
const TOGETHER: u32 = 4;
/// Bytes of a device's text that a log line holds.
const TEXT_BYTES: usize = 512;
/// Waits after a failed write: doubled from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

pub(super) struct Worker {
    store: Store,
    registry: Arc<Registry>,
    wake_ups: Arc<WakeUps>,
    metrics: Arc<Metrics>,
    latest: Arc<Latest>,
    cache: HeartbeatCache,
}

impl Worker {
    pub(super) fn new(
        store: Store,
        registry: Arc<Registry>,
        wake_ups: Arc<WakeUps>,
        metrics: Arc<Metrics>,
        latest: Arc<Latest>,
    ) -> Self {
        Self {
            store,
            registry,
            wake_ups,
            metrics,
            latest,
            cache: HeartbeatCache::default(),
        }
    }

    /// Works until `stop`, then writes what is left.
    pub(super) async fn run(
        mut self,
        mut queue: mpsc::Receiver<Submission>,
        stop: CancellationToken,
    ) {
        let mut flush = tokio::time::interval(FLUSH);
        flush.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH);
        // Progress is shown live, so it need not be written at once.
        let mut progress_due = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                // Takes all that waits, up to a batch. Cancel-safe.
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
        // The last round. Nobody sends any more, and each report is tried once.
        queue.close();
        while queue.recv_many(&mut batch, BATCH).await > 0 {
            self.commit(&mut batch, &mut queue, &stop).await;
        }
        self.commit(&mut batch, &mut queue, &stop).await;
        self.flush_heartbeats().await;
    }

    /// Writes the batch with the progress that waits, again until it is written. Then acknowledges
    /// it.
    async fn commit(
        &mut self,
        batch: &mut Vec<Submission>,
        queue: &mut mpsc::Receiver<Submission>,
        stop: &CancellationToken,
    ) {
        let progress: Vec<_> = self.latest.progress.lock().drain().collect();
        // Reports that a session sent before this progress are in the queue by now. They come
        // first.
        while batch.len() < BATCH
            && let Ok(submission) = queue.try_recv()
        {
            batch.push(submission);
        }
        let rows = incoming_reports(batch, progress);
        if rows.is_empty() {
            return;
        }
        self.metrics
            .recorder
            .report_flush
            .observe(rows.len() as f64);
        for row in &rows {
            if matches!(row.event, ReportEvent::Outcome(_)) {
                self.cache.forget_match(row.device);
            }
        }
        let dispositions = self.apply(rows, stop).await;
        let (mut moved, mut deferred) = (HashSet::new(), HashSet::new());
        for (report, disposition) in batch.drain(..).zip(dispositions) {
            let device = report.session.device;
            let Some(disposition) = disposition else {
                // The agent keeps the report and sends it again in its next session, unless its key
                // is revoked.
                report.session.end(EndReason::Unrecorded);
                continue;
            };
            log_recorded(&report, disposition, self.store.log_queue());
            if matches!(report.event, ReportEvent::Accepted)
                && disposition == v1::Disposition::Applied
                && let Some(waited) = self.registry.waited_for_push(device, report.attempt)
            {
                observe(&self.metrics.recorder.push, waited);
            }
            if disposition == v1::Disposition::Applied {
                self.store.in_flight().mark_answered(report.attempt);
            }
            // A duplicate outcome makes nothing due, and its push keeps its claim.
            let is_duplicate = matches!(disposition, v1::Disposition::Duplicate);
            if matches!(report.event, ReportEvent::Outcome(_)) && !is_duplicate {
                self.registry.attempt_closed(device, report.attempt);
                moved.insert(device);
            }
            if matches!(report.event, ReportEvent::Deferred(_)) {
                deferred.insert(device);
            }
            // The agent keeps only reports with a number, so only those are acknowledged.
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
        // The end of an attempt may make the next one of its device due, or the next phase.
        if !moved.is_empty() {
            self.wake_ups.wake_rollouts();
        }
        // Nobody has been told yet when their next run is due.
        self.wake_ups.wake_devices(deferred);
        self.wake_ups.wake_devices(moved);
    }

    /// Applies the rows together. Waits for a store that does not answer. When it answers with an
    /// error, the rows are tried one by one, so that a row that meets a defect does not hold up the
    /// fleet. `None` for a row that was not written. Its agent sends it again, unless its key is
    /// revoked.
    async fn apply(
        &self,
        rows: Vec<IncomingReport>,
        stop: &CancellationToken,
    ) -> Vec<Option<v1::Disposition>> {
        let mut waits = doubling(BACKOFF.0, BACKOFF.1);
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
            let wait = waits.next().unwrap_or(BACKOFF.1);
            tracing::warn!(error = %chain(&error), reports = rows.len(), wait_ms = wait.as_millis() as u64, "reports wait for the store");
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stop.cancelled() => {}
            }
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
        let waiting = waiting.into_iter();
        let rows: Vec<_> = waiting
            .map(|(_, row)| self.cache.look_up(row, now))
            .collect();
        if rows.is_empty() {
            return;
        }
        self.metrics
            .recorder
            .heartbeat_flush
            .observe(rows.len() as f64);
        match self.store.record_heartbeats(&rows).await {
            Ok(recorded) => {
                self.cache.learn_written(&rows, &recorded, now);
                self.cache.drop_old(self.registry.len(), now);
            }
            Err(error) => {
                tracing::warn!(error = %chain(&error), devices = rows.len(), "heartbeats wait for the store");
                let mut heartbeats = self.latest.heartbeats.lock();
                for CachedHeartbeat { mut row, .. } in rows {
                    // An outcome may have come meanwhile, or a newer heartbeat.
                    row.releases = None;
                    heartbeats.entry(row.device).or_insert(row);
                }
            }
        }
    }
}

/// Logs what a device said and what became of it. Only the end of an attempt is logged at the usual
/// level.
fn log_recorded(report: &Submission, disposition: v1::Disposition, log: &LogQueue) {
    let disposition = words::disposition(disposition);
    // Most spans are disabled here, because few reports are traced.
    let (device, session) = (report.session.device, report.session.epoch);
    let command = report.attempt;
    let ReportEvent::Outcome(outcome) = &report.event else {
        let seq = report.seq;
        report.span.in_scope(
            || tracing::debug!(%device, session, %command, seq, disposition, "report recorded"),
        );
        return;
    };
    let ending = Ending::try_from(outcome).ok();
    let state = ending.map(|ending| ending.state().as_str());
    let reason = ending.and_then(Ending::reason).map(FailureReason::as_str);
    if let Some(reason) = reason {
        report.span.record("otel.status_code", "ERROR");
        report.span.record("error.type", reason);
    }
    let (exit_code, duration_ms) = (outcome.exit_code, outcome.duration_ms);
    let why = Some(outcome.message.as_str()).filter(|why| !why.is_empty());
    let why = why.map(|why| shorten(why).to_owned());
    log.add(report.span.clone(), move || {
        tracing::info!(
            %device,
            session,
            %command,
            state,
            reason,
            exit_code,
            why,
            duration_ms,
            disposition,
            "attempt ended"
        );
    });
}

/// As much of a device's text as a log line holds.
fn shorten(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_BYTES)]
}

/// The reports in order, then progress, but not of attempts whose reports say something newer.
fn incoming_reports(
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
