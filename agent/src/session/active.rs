//! An open session: heartbeats and reports up, commands and acknowledgements down.

use std::{collections::HashSet, time::Duration};

use kernex_proto::{
    ids::AttemptId,
    v1::{self, command::Action, device_session_request::Message, report::Event},
};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    SessionError,
    handshake::{Streams, Welcome},
    incoming::{Incoming, failed, understand},
};
use crate::{
    bundle::running::running_releases,
    clock,
    config::Config,
    crash::Act,
    disk::Fault,
    host::Host,
    journal::{Acceptance, BootInstant, Journal, StopResult},
    shared::{Shared, progress_report},
};

mod reports;
mod resend;

use resend::Resend;

/// A message that cannot be sent for this long means that the server does not read.
pub(super) const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// Silence of the server that is always allowed.
pub(super) const LEAST_SILENCE: Duration = Duration::from_secs(30);
/// How long a stopping agent waits for the acknowledgements of its last reports.
const LAST_ACKS: Duration = Duration::from_secs(2);
/// How long an agent waits for acknowledgements of a draining server.
const DRAIN_ACKS: Duration = Duration::from_secs(1);

pub(super) struct Active<'a> {
    pub(super) config: &'a Config,
    pub(super) journal: &'a Journal,
    pub(super) shared: &'a Shared,
    host: &'a mut Host,
    streams: Streams,
    epoch: u64,
    /// Time between heartbeats in the Welcome; the configuration may replace it.
    usual_heartbeat: Duration,
    ticks: Interval,
    heartbeat_seq: u64,
    /// The resume mark in the Welcome: the server has the outcomes of this journal up to this
    /// number.
    recorded_seq: Option<u64>,
    /// Reports sent in this session. They are sent again in the next one, or when the server asks.
    pub(super) sent: HashSet<u64>,
    /// Outcomes that the server has lost and that are being sent again.
    resend: Option<Resend>,
}

impl<'a> Active<'a> {
    pub(super) fn new(
        config: &'a Config,
        journal: &'a Journal,
        shared: &'a Shared,
        host: &'a mut Host,
        welcome: &Welcome,
        streams: Streams,
    ) -> Self {
        let settings = shared.settings();
        Self {
            config,
            journal,
            shared,
            host,
            streams,
            epoch: welcome.epoch,
            usual_heartbeat: welcome.heartbeat,
            ticks: ticks(settings.heartbeat.unwrap_or(welcome.heartbeat)),
            heartbeat_seq: 0,
            recorded_seq: welcome.recorded_seq,
            sent: HashSet::new(),
            resend: None,
        }
    }

    /// Runs until the session ends, or `invalidated` ends it; `Ok` when `stop` did.
    pub(super) async fn run(
        mut self,
        invalidated: &CancellationToken,
        stop: &CancellationToken,
    ) -> Result<(), SessionError> {
        let mut last_received = Instant::now();
        let mut progress = self.shared.progress.subscribe();
        progress.mark_unchanged();
        self.begin_resend(self.recorded_seq).await?;
        self.send_reports().await?;
        self.send_deferred().await?;
        loop {
            let silence = self.silence();
            tokio::select! {
                message = self.streams.down.message() => {
                    let message = message
                        .map_err(|status| SessionError::Status(Box::new(status)))?
                        .ok_or(SessionError::Ended)?;
                    last_received = Instant::now();
                    self.handle(message).await?;
                }
                _ = self.ticks.tick() => self.send_heartbeat().await?,
                () = self.shared.reports.notified() => self.send_reports().await?,
                changed = progress.changed() => if changed.is_ok() {
                    let report = progress.borrow_and_update().clone();
                    if let Some(report) = report {
                        self.send(Message::Report(report)).await?;
                    }
                },
                () = sleep_until(last_received + silence) => return Err(SessionError::Silent(silence)),
                () = invalidated.cancelled() => return Err(SessionError::Invalidated),
                () = stop.cancelled() => {
                    self.send_reports().await?;
                    return self.await_acks(LAST_ACKS).await;
                }
            }
        }
    }

    async fn handle(&mut self, message: v1::DeviceSessionResponse) -> Result<(), SessionError> {
        match understand(message.message, self.epoch) {
            Incoming::Nothing => Ok(()),
            Incoming::Fenced(epoch) => {
                tracing::warn!(
                    session = self.epoch,
                    epoch,
                    "ignored a command of another session"
                );
                Ok(())
            }
            Incoming::Accept(id, command) => self.accept(id, command).await,
            Incoming::Refuse(id, command, outcome) => {
                tracing::warn!(command = %id, why = outcome.message, "refused a command");
                self.journal
                    .call(move |journal| journal.refuse(id, &command, *outcome))
                    .await?;
                self.resend_reports_of(id).await
            }
            Incoming::Stop(id, command) => self.stop(id, command).await,
            Incoming::Plan(plan) => self.plan(plan).await,
            Incoming::Configure(wanted) => self.configure(wanted).await,
            Incoming::Unsupported(answer) => self.send(Message::Unsupported(answer)).await,
            Incoming::Ack(seq, disposition) => self.acknowledged(seq, disposition).await,
            Incoming::Drain(after) => {
                tracing::info!(
                    reconnect_after_ms = after.as_millis(),
                    "the server is going away"
                );
                self.send_reports().await?;
                // Reports that it still acknowledges need not be sent again. How the wait ends does
                // not matter.
                let _ = self.await_acks(DRAIN_ACKS).await;
                Err(SessionError::Drained(after))
            }
        }
    }

    async fn accept(&mut self, id: AttemptId, command: v1::Command) -> Result<(), SessionError> {
        let at = BootInstant {
            boot_id: clock::boot_id(),
            millis: u64::try_from(clock::since_boot().as_millis()).unwrap_or(u64::MAX),
        };
        let acceptance = self
            .journal
            .call(move |journal| match journal.accept(id, &command, at)? {
                Acceptance::Full => {
                    let outcome = failed(
                        v1::FailureReason::Internal,
                        "too many attempts are waiting on this device".to_owned(),
                    );
                    journal
                        .refuse(id, &command, outcome)
                        .map(|()| Acceptance::Full)
                }
                acceptance => Ok(acceptance),
            })
            .await?;
        tracing::info!(command = %id, acceptance = acceptance.as_str(), "got a command");
        if acceptance == Acceptance::New {
            self.shared.work.notify_one();
        }
        self.resend_reports_of(id).await
    }

    async fn stop(&mut self, id: AttemptId, command: v1::Command) -> Result<(), SessionError> {
        let going_back = matches!(&command.action, Some(Action::Stop(stop)) if stop.going_back);
        let stopped = self
            .journal
            .call(move |journal| journal.stop(id, &command))
            .await?;
        tracing::info!(command = %id, state = stopped.as_str(), going_back, "got a stop");
        let is_running = self.shared.stop(id, going_back);
        match stopped {
            StopResult::UnderWay if is_running => Ok(()),
            // It waits for the executor, to continue or to go back: nothing of it runs now.
            StopResult::UnderWay => {
                let progress = v1::Progress {
                    step: v1::Step::Rollback.into(),
                    stopped: true,
                    ..v1::Progress::default()
                };
                self.send(Message::Report(progress_report(id, progress)))
                    .await
            }
            StopResult::Cancelled | StopResult::Over => self.resend_reports_of(id).await,
        }
    }

    pub(super) fn heartbeat(&self) -> Duration {
        let configured = self.shared.settings().heartbeat;
        configured.unwrap_or(self.usual_heartbeat)
    }

    /// Applies a changed time between heartbeats.
    pub(super) fn restart_heartbeats(&mut self) {
        self.ticks = ticks(self.heartbeat());
    }

    fn silence(&self) -> Duration {
        let configured = self.shared.settings().silence;
        configured.unwrap_or_else(|| (self.heartbeat() * 3).max(LEAST_SILENCE))
    }

    async fn send_heartbeat(&mut self) -> Result<(), SessionError> {
        self.heartbeat_seq += 1;
        let remover = self.shared.remover.clone();
        let (fault, is_idle, releases) = self
            .journal
            .call(move |journal| {
                let is_idle = journal.live()?.is_empty();
                Ok((
                    journal.fault(),
                    is_idle,
                    running_releases(&remover, journal)?,
                ))
            })
            .await?;
        // On a full disk the reserve is enough to report what is in progress; nothing new is
        // accepted after that.
        if let Some(fault) = fault
            && (is_idle || fault != Fault::NoSpace)
        {
            return Err(SessionError::Faulty(fault));
        }
        let heartbeat = v1::Heartbeat {
            seq: self.heartbeat_seq,
            vital_signs: Some(self.host.vital_signs()),
            releases,
            device_time: Some(clock::wall()),
            leftovers: self.shared.remover.leftovers(),
            disk_fault: fault
                .map_or(v1::DiskFault::Unspecified, v1::DiskFault::from)
                .into(),
        };
        self.send(Message::Heartbeat(heartbeat)).await
    }

    pub(super) async fn send(&self, message: Message) -> Result<(), SessionError> {
        let act = crash_point_of(&message);
        let message = v1::DeviceSessionRequest {
            message: Some(message),
        };
        if let Some(act) = act {
            act.before();
        }
        // A closed channel means that the stream ended; reading it says why.
        if timeout(SEND_TIMEOUT, self.streams.up.send(message))
            .await
            .is_err()
        {
            return Err(SessionError::Stuck);
        }
        if let Some(act) = act {
            act.after();
        }
        Ok(())
    }
}

/// The crash point of sending a message.
fn crash_point_of(message: &Message) -> Option<Act> {
    Some(match message {
        Message::Heartbeat(_) => Act::SendHeartbeat,
        Message::Planned(_) => Act::SendPlanned,
        Message::Configured(_) => Act::SendConfigured,
        Message::Report(report) => match report.event.as_ref()? {
            Event::Accepted(_) => Act::SendAccepted,
            Event::Progress(_) => Act::SendProgress,
            Event::Deferred(_) => Act::SendDeferred,
            Event::Outcome(_) => Act::SendOutcome,
        },
        Message::Hello(_) | Message::Ready(_) | Message::Unsupported(_) => return None,
    })
}

pub(super) fn ticks(pace: Duration) -> Interval {
    let mut ticks = interval(pace);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
