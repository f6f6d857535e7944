//! One device's stream. After the handshake it is a loop: wait, decide, act. Deciding is a pure
//! function.

mod committer;
mod decide;
pub(crate) mod error;
pub mod handshake;
mod heartbeats;
mod limits;
mod opening;
mod outbound;

use std::{pin::pin, sync::Arc, time::Duration};

use futures::{FutureExt as _, future::BoxFuture};
use kernex_proto::{
    handshake::ChannelBinding,
    ids::{ClusterId, DeviceId},
    v1::{self, DeviceSessionRequest, device_session_response::Message as Down},
};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep_until},
};
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::{Instrument as _, Span};

pub use self::{
    committer::SessionCommitter,
    outbound::{Outbound, OutboundSender, outbound},
};
use self::{
    decide::{Decision, Wake, decide, decide_ailing, leaving, told_apart},
    handshake::HandshakeError,
    opening::log_refusal,
};
use crate::{
    clock::Clock,
    crash::Act,
    delivery::{
        registry::{EndReason, Registry, SessionHandle},
        wake_ups::WakeUps,
    },
    domain::device::{
        DiskFault,
        away::{Away, AwayReason},
    },
    edge::connections::ConnectionHandle,
    error::chain,
    metrics::Metrics,
    preflight::PlanQuestions,
    recorder::{Recorder, Submission},
    store::{ReplicaId, Store},
};

/// Handshakes worked on at once: as many as one transaction opens together ([`SessionCommitter`]).
/// More of them would wait for each other longer than a handshake may take. Then a fleet that comes
/// back would have sessions written that nobody waits for any more.
pub const HANDSHAKES: usize = 256;

/// What every session needs; one for the whole server.
#[derive(Debug)]
pub struct Sessions {
    pub store: Store,
    pub registry: Arc<Registry>,
    /// Commits sessions that open, are confirmed or close, many at once.
    pub committer: SessionCommitter,
    pub recorder: Recorder,
    /// Woken for a device that has just come.
    pub wake_ups: Arc<WakeUps>,
    /// Questions to devices whose answers have not come yet.
    pub plans: Arc<PlanQuestions>,
    /// The time that Challenge tells agents.
    pub clock: Clock,
    /// One permit for each of the [`HANDSHAKES`].
    pub admission: Semaphore,
    pub metrics: Arc<Metrics>,
    /// Cancelled once the server stops. No session opens after that.
    pub draining: CancellationToken,
    pub settings: SessionSettings,
}

/// What agents are told and asked for. It does not change while the server runs.
#[derive(Debug)]
pub struct SessionSettings {
    pub cluster: ClusterId,
    /// Tells this process from the other replicas.
    pub replica: ReplicaId,
    /// Time between heartbeats that Welcome asks for.
    pub heartbeat_interval: Duration,
    /// Oldest revision of the protocol that an agent may prove itself by; see `--min-protocol`.
    pub min_protocol: u32,
    /// The CA that agents trust, as PEM; empty without TLS.
    pub trust_bundle: String,
    /// A peer that has not taken the end of its session after this time has its connection closed.
    pub stall: Duration,
}

impl Sessions {
    /// The whole life of one stream. `span` is entered for everything but heartbeats, of which
    /// there are too many.
    #[expect(
        clippy::manual_async_fn,
        reason = "an async fn stores its arguments twice in its future"
    )]
    pub(crate) fn run<S>(
        self: Arc<Self>,
        mut inbound: S,
        line: OutboundSender,
        connection: ConnectionHandle,
        binding: ChannelBinding,
        span: Span,
    ) -> impl Future<Output = ()> + Send
    where
        S: Stream<Item = Result<DeviceSessionRequest, Status>> + Unpin + Send,
    {
        async move {
            // In a box, so that an open session does not keep the memory of its handshake.
            let opened = tokio::select! {
                () = self.draining.cancelled() => Err(HandshakeError::Draining),
                opened = Box::pin(self.open(&mut inbound, &line.sender, &connection, binding).instrument(span.clone())) => opened,
            };
            let result = match &opened {
                Ok(_) => "opened",
                Err(refusal) => refusal.label(),
            };
            self.metrics.sessions.handshakes.with_label(result).inc();
            let verdict = match opened {
                Ok(session) => {
                    if self.draining.is_cancelled() {
                        // It opened after all others were told to leave.
                        session.end(EndReason::Drain {
                            reconnect_after: Duration::from_secs(1),
                        });
                    }
                    let (away, verdict) = self.serve_messages(&mut inbound, &session, &span).await;
                    let away = told_apart(away, connection.quiet_for());
                    self.closing(&session, of_status(away, verdict.as_ref()), &span)
                        .await;
                    verdict
                }
                Err(refusal) => {
                    span.in_scope(|| log_refusal(&refusal, &connection));
                    Some(refusal.into())
                }
            };
            // Without a window from its peer HTTP/2 sends nothing, so the end of the stream may
            // never arrive.
            if !Box::pin(line.finish(verdict, self.settings.stall)).await {
                connection.close("the end of a session on it was not read");
            }
        }
    }

    /// Waits, decides and acts, until something ends the session. Returns why the device is away
    /// from then on, and the status that says so; `None` after an end in good order.
    async fn serve_messages<S>(
        &self,
        inbound: &mut S,
        session: &Arc<SessionHandle>,
        span: &Span,
    ) -> (AwayReason, Option<Status>)
    where
        S: Stream<Item = Result<DeviceSessionRequest, Status>> + Unpin,
    {
        let silence = || {
            session
                .heartbeat()
                .unwrap_or(self.settings.heartbeat_interval)
                * 3
                + handshake::DEADLINE
        };
        let mut ended = pin!(session.ended());
        // A message only moves `last_heard`. The timer is set anew when it fires too early.
        let mut last_heard = Instant::now();
        let mut silent = pin!(sleep_until(last_heard + silence()));
        loop {
            let wake = tokio::select! {
                biased;
                why = &mut ended => Wake::Ended(why),
                message = inbound.next() => {
                    last_heard = Instant::now();
                    message.into()
                }
                () = &mut silent => {
                    let limit = last_heard + silence();
                    if Instant::now() < limit {
                        silent.as_mut().reset(limit);
                        continue;
                    }
                    Wake::Silent
                }
            };
            let (leaving, decision) = decide_for(session, wake);
            match decision {
                Decision::Ignore(what) => {
                    span.in_scope(|| tracing::debug!(why = what, "message ignored"));
                }
                Decision::Reply(replies) => {
                    for reply in replies {
                        session.send(reply);
                    }
                }
                Decision::Heartbeat { seq, row } => {
                    let fault = DiskFault::try_from(row.disk_fault()).ok();
                    self.answer_heartbeat(session, seq, *row);
                    if session.should_record_disk_fault(fault) {
                        // In a box: hardly any session ever gets here.
                        let noted = self.record_disk_fault(session, fault);
                        Box::pin(noted.instrument(span.clone())).await;
                    }
                }
                Decision::Progress(..) if session.exceeds_rate() => {
                    self.metrics.sessions.count_beyond_limit("progress");
                }
                Decision::Progress(attempt, progress) => {
                    self.recorder
                        .progress(session.device, session.epoch, attempt, progress);
                }
                Decision::Planned(mut answer) => {
                    if limits::shorten(&mut answer) {
                        self.metrics.sessions.count_beyond_limit("obstacles");
                    }
                    self.plans.answer(session.device, answer);
                }
                Decision::Configured(answer) => {
                    let recorded = self.record_configured(session, &answer);
                    Box::pin(recorded.instrument(span.clone())).await;
                    silent.as_mut().reset(last_heard + silence());
                }
                Decision::Report(report) => {
                    // In a box, like all that a quiet session does not do, so that its memory is
                    // given back.
                    if !Box::pin(self.queue_report(session, report)).await {
                        return (AwayReason::Drained, Some(HandshakeError::Draining.into()));
                    }
                }
                Decision::Finish(status) => return (leaving, status),
                Decision::Drain(reconnect_after) => {
                    Act::PushDrain.before();
                    session.send(Down::Drain(v1::Drain {
                        reconnect_after_ms: reconnect_after.as_millis() as u64,
                    }));
                    Act::PushDrain.after();
                    return (leaving, None);
                }
            }
        }
    }

    /// Waits while the device sends faster than it may. Its messages wait on its own side
    /// meanwhile.
    async fn throttle(&self, session: &SessionHandle) {
        if session.exceeds_rate() {
            self.metrics.sessions.count_beyond_limit("messages");
            tracing::debug!(device = %session.device, "a device says more than it may and is heard later");
            session.wait_for_rate().await;
        }
    }

    /// Queues a report; false when the recorder has stopped.
    async fn queue_report(&self, session: &Arc<SessionHandle>, report: decide::Report) -> bool {
        let decide::Report {
            seq,
            previous_outcome,
            attempt,
            event,
            traceparent,
        } = report;
        let span = if traceparent.is_empty() {
            // Nobody traces this report, and a span for each device of a fleet costs time.
            Span::none()
        } else {
            let span = tracing::info_span!(
                "report",
                otel.kind = "consumer",
                otel.status_code = tracing::field::Empty,
                "error.type" = tracing::field::Empty,
                device = %session.device,
                session = session.epoch,
                command = %attempt,
                trace_id = tracing::field::Empty,
            );
            kernex_proto::telemetry::set_parent(&span, &traceparent);
            span
        };
        let queued = async {
            self.throttle(session).await;
            let submission = Submission {
                session: Arc::clone(session),
                seq,
                previous_outcome,
                attempt,
                event,
                span,
                permit: session.recording_permit().await,
            };
            self.recorder.report(submission).await
        };
        // A full queue holds back what the session does, but not its end.
        tokio::select! {
            _ = session.ended() => true,
            queued = queued => queued,
        }
    }

    async fn record_configured(&self, session: &SessionHandle, answer: &v1::Configured) {
        self.throttle(session).await;
        if answer.heartbeat_interval_ms > 0 {
            // A configuration may ask for one heartbeat an hour. The device is not lost because it
            // is quiet.
            session.set_heartbeat(Duration::from_millis(answer.heartbeat_interval_ms));
        }
        if let Err(error) = self
            .store
            .configured(session.device, session.epoch, answer)
            .await
        {
            // The next session pushes the configuration again, and it is answered again.
            tracing::warn!(error = %chain(&error), "the answer to a configuration was not recorded");
        }
    }

    /// In a box, so that an open session keeps no room for its end.
    fn closing<'a>(
        &'a self,
        session: &'a SessionHandle,
        away: Away,
        span: &Span,
    ) -> BoxFuture<'a, ()> {
        self.close(session, away).instrument(span.clone()).boxed()
    }

    async fn close(&self, session: &SessionHandle, away: Away) {
        self.registry.remove(session.device, session.epoch);
        let detail = (!away.detail.is_empty()).then_some(away.detail.as_str());
        tracing::info!(reason = %away.reason, detail, "session closed");
        // A server that stops closes the rows of all its sessions in one go.
        if !self.draining.is_cancelled() {
            self.mark_closed(session.device, session.epoch, away).await;
        }
    }

    async fn mark_closed(&self, device: DeviceId, epoch: u64, away: Away) {
        if let Err(error) = self.committer.close(device, epoch, away).await {
            // The row is put right by the next session, or when the lease of this replica ends.
            tracing::warn!(error = %chain(&error), "session not marked as closed");
        }
    }
}

/// Why the device is away, with the text of the status where that tells more.
fn of_status(reason: AwayReason, status: Option<&Status>) -> Away {
    let detail = match (reason, status) {
        (AwayReason::Malformed, Some(status)) => status.message().to_owned(),
        _ => String::new(),
    };
    Away { reason, detail }
}

/// Decides, and counts the message. Says as well why the device is away if its session ends now.
/// The variables of a function of its own take no room in the future of an open session.
fn decide_for(session: &SessionHandle, wake: Wake) -> (AwayReason, Decision) {
    let leaving = leaving(&wake);
    let decision = match session.is_ailing() {
        false => decide(wake),
        true => decide_ailing(wake),
    };
    if decision.is_counted() {
        session.count_message();
    }
    (leaving, decision)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of the future a function makes.
    fn size<A, B, C, D, E, G, F: Future>(_: impl FnOnce(A, B, C, D, E, G) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_session_is_a_small_task() {
        let size = size(Sessions::run::<tonic::Streaming<DeviceSessionRequest>>);
        assert!(
            size < 1024,
            "{size} bytes; ten thousand devices have one each"
        );
    }
}
