//! One device's stream: after the handshake a loop of "wait, decide, act", where the decision is a
//! pure function.

mod committer;
mod decide;
pub mod handshake;
mod limits;
mod outbound;

use std::{pin::pin, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use kernex_proto::{
    handshake::ChannelBinding,
    ids::{AttemptId, ClusterId, DeviceId, Digest},
    v1::{
        self, DeviceSessionRequest, DeviceSessionResponse, device_session_response::Message as Down,
    },
};
use rand::{Rng as _, RngCore as _};
use tokio::{
    sync::{Semaphore, mpsc},
    time::{Instant, sleep_until},
};
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::{Instrument as _, Span};
use uuid::Uuid;

use self::{
    committer::Claim,
    decide::{Decision, Wake, decide, decide_ailing},
    handshake::{Challenge, Readiness, Refusal},
};
pub use self::{
    committer::SessionCommitter,
    outbound::{Outbound, OutboundSender, outbound},
};
use crate::{
    clock::Clock,
    crash::Act,
    delivery::{
        registry::{EndReason, Registry, SessionHandle},
        wake_ups::WakeUps,
    },
    domain::device::DiskFault,
    edge::connections::{ConnectionHandle, Credential},
    error::chain,
    metrics::Metrics,
    preflight::PlanQuestions,
    recorder::{Recorder, Submission},
    store::{Store, heartbeats::HeartbeatRow},
};

/// Handshakes worked on at once, which is what one transaction opens together
/// ([`SessionCommitter`]). More of them would wait for each other longer than a handshake may take,
/// and a returning fleet would write sessions that nobody waits for any more.
pub const HANDSHAKES: usize = 256;
/// How long a handshake waits for its turn before it is told to come back.
const ADMISSION_WAIT: Duration = Duration::from_secs(3);

/// What every session needs; one for the whole server.
#[derive(Debug)]
pub struct Sessions {
    /// Rows.
    pub store: Store,
    /// The phone book.
    pub registry: Arc<Registry>,
    /// Where they open and close.
    pub committer: SessionCommitter,
    /// Where reports and heartbeats go.
    pub recorder: Recorder,
    /// Who to look at.
    pub wake_ups: Arc<WakeUps>,
    /// Server time for the challenge.
    pub clock: Clock,
    /// This installation.
    pub cluster: ClusterId,
    /// This process among the replicas.
    pub replica: Uuid,
    /// What Welcome asks for.
    pub heartbeat_interval: Duration,
    /// Oldest revision of the protocol that is taken.
    pub min_protocol: u32,
    /// The CA agents trust, PEM; empty without TLS.
    pub trust_bundle: String,
    /// Questions to devices that wait for their answers.
    pub plans: Arc<PlanQuestions>,
    /// Turns for handshakes.
    pub admission: Arc<Semaphore>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Time a peer has to take the end of its session.
    pub stall: Duration,
    /// Set once the server stops; no session opens after that.
    pub draining: CancellationToken,
}

impl Sessions {
    /// The whole life of one stream. `span` is entered for all that is rare; a heartbeat does
    /// without.
    #[expect(
        clippy::manual_async_fn,
        reason = "a function that waits has the room of its arguments twice"
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
            // In a box of its own: an open session does not keep the room its handshake took.
            let opened = tokio::select! {
                () = self.draining.cancelled() => Err(Refusal::Draining),
                opened = Box::pin(self.open(&mut inbound, &line.sender, &connection, binding).instrument(span.clone())) => opened,
            };
            let result = match &opened {
                Ok(_) => "opened",
                Err(refusal) => refusal.label(),
            };
            self.metrics.handshakes.with_label(result).inc();
            let verdict = match opened {
                Ok(session) => {
                    if self.draining.is_cancelled() {
                        // It opened after the others were told to leave.
                        session.end(EndReason::Drain {
                            reconnect_after: Duration::from_secs(1),
                        });
                    }
                    let verdict = self.serve_messages(&mut inbound, &session, &span).await;
                    Box::pin(self.close(&session).instrument(span.clone())).await;
                    verdict
                }
                Err(refusal) => {
                    span.in_scope(|| log_refusal(&refusal, &connection));
                    Some(refusal.into())
                }
            };
            // HTTP/2 asks for nothing while the peer has no room, so that an end may never arrive.
            if !Box::pin(line.finish(verdict, self.stall)).await {
                connection.close("the end of a session on it was not taken");
            }
        }
    }

    /// Challenge to Ready. Only a session that is confirmed enters the registry.
    async fn open<S>(
        &self,
        inbound: &mut S,
        out: &mpsc::Sender<Box<DeviceSessionResponse>>,
        connection: &ConnectionHandle,
        binding: ChannelBinding,
    ) -> Result<Arc<SessionHandle>, Refusal>
    where
        S: Stream<Item = Result<DeviceSessionRequest, Status>> + Unpin,
    {
        let deadline = Instant::now() + handshake::DEADLINE;
        let challenge = Challenge::new(self.cluster, binding, self.min_protocol);
        Act::PushChallenge.before();
        send_handshake(out, Down::Challenge(challenge.message(self.clock.now())))?;
        Act::PushChallenge.after();
        let hello = handshake::receive_hello(inbound, deadline).await?;
        Span::current().record("device", tracing::field::display(hello.device));

        let (device, journal) = (hello.device, hello.journal);
        let (token, token_hash) = session_token();
        let opened = {
            let _permit = self.admission_permit().await?;
            let claim = Claim {
                challenge,
                hello,
                token_hash,
                replica: self.replica,
            };
            self.committer.open(claim).await?
        };
        connection.mark_known();
        let epoch = opened.epoch;
        // What is revoked after this is found by the look below, unless the confirmation has found
        // it.
        let revoked = self.store.revocations().devices();
        Span::current().record("session", epoch);
        let welcome = v1::Welcome {
            epoch,
            heartbeat_interval_ms: self.heartbeat_interval.as_millis() as u64,
            session_token: token,
            trust_bundle_pem: self.trust_bundle.clone(),
            trust_bundle_signature: Vec::new().into(),
            protocol_revision: kernex_proto::PROTOCOL_REVISION,
            device_name: opened.name.clone(),
            recorded_seq: opened.recorded_seq,
            stops: stop_commands(opened.stops, epoch),
        };
        let confirmed = async {
            Act::PushWelcome.before();
            send_handshake(out, Down::Welcome(welcome))?;
            Act::PushWelcome.after();
            let answered = handshake::receive_ready(inbound, epoch, deadline).await?;
            match &answered {
                Readiness::Ready => self.committer.confirm(device, epoch).await?,
                Readiness::Ailing(_) => self.committer.mark_ailing(device, epoch).await?,
            }
            Ok::<_, Refusal>(answered)
        };
        let answered = match confirmed.await {
            Ok(answered) => answered,
            Err(refusal) => {
                self.mark_closed(device, epoch).await;
                return Err(refusal);
            }
        };
        if opened.conflicted {
            tracing::warn!(device = %device, name = opened.name, "two copies of this device exist; it gets no commands until an operator decides");
        }
        let session = SessionHandle::new(device, epoch, journal, out.clone());
        session.set_disk_fault(opened.disk_fault);
        if let Readiness::Ailing(heartbeat) = answered {
            session.set_ailing();
            match decide::heartbeat(*heartbeat) {
                Decision::Heartbeat { seq, row } => self.record_heartbeat(&session, seq, row).await,
                _ => {
                    self.mark_closed(device, epoch).await;
                    return Err(Refusal::Malformed("Heartbeat: it makes no sense".into()));
                }
            }
        }
        if !self.registry.insert(Arc::clone(&session)) {
            session.end(EndReason::Replaced);
        }
        if self.store.revocations().devices() != revoked {
            let stands = self.store.is_session(device, epoch).await;
            if !matches!(stands, Ok(true)) {
                // It comes back and is told why.
                session.end(EndReason::Replaced);
            }
        }
        if session.is_ailing() {
            tracing::warn!(name = opened.name, disk_fault = ?session.disk_fault(), "session opened by an agent that cannot write its state folder; it gets no commands");
        } else {
            tracing::info!(name = opened.name, "session opened");
            self.wake_ups.wake_configurations([device]);
        }
        Ok(session)
    }

    async fn admission_permit(&self) -> Result<tokio::sync::SemaphorePermit<'_>, Refusal> {
        let busy = || Refusal::Overloaded {
            retry_after: Duration::from_millis(rand::thread_rng().gen_range(1000..5000)),
        };
        match tokio::time::timeout(ADMISSION_WAIT, self.admission.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(busy()),
        }
    }

    /// Waits, decides, acts, until something ends it. Returns the status that says why, or none for
    /// a good end.
    async fn serve_messages<S>(
        &self,
        inbound: &mut S,
        session: &Arc<SessionHandle>,
        span: &Span,
    ) -> Option<Status>
    where
        S: Stream<Item = Result<DeviceSessionRequest, Status>> + Unpin,
    {
        let silence =
            || session.heartbeat().unwrap_or(self.heartbeat_interval) * 3 + handshake::DEADLINE;
        let mut ended = pin!(session.ended());
        // Each message only moves the moment; the timer is set anew when it fires too early.
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
            match decide_for(session, wake) {
                Decision::Ignore(what) => {
                    span.in_scope(|| tracing::debug!(what, "message ignored"));
                }
                Decision::Reply(replies) => {
                    for reply in replies {
                        session.send(reply);
                    }
                }
                Decision::Heartbeat { seq, row } => {
                    let fault = DiskFault::from_wire(row.disk_fault());
                    self.answer_heartbeat(session, seq, *row);
                    if session.should_record_disk_fault(fault) {
                        // In a box: hardly any session ever gets here.
                        let noted = self.record_disk_fault(session, fault);
                        Box::pin(noted.instrument(span.clone())).await;
                    }
                }
                Decision::Progress(..) if session.exceeds_rate() => {
                    self.metrics.device_limits.with_label("progress").inc();
                }
                Decision::Progress(attempt, progress) => {
                    self.recorder
                        .progress(session.device, session.epoch, attempt, progress);
                }
                Decision::Planned(mut answer) => {
                    if limits::shorten(&mut answer) {
                        self.metrics.device_limits.with_label("obstacles").inc();
                    }
                    self.plans.answer(session.device, answer);
                }
                Decision::Configured(answer) => {
                    let recorded = self.record_configured(session, &answer);
                    Box::pin(recorded.instrument(span.clone())).await;
                    silent.as_mut().reset(last_heard + silence());
                }
                Decision::Report(report) => {
                    // In a box, as everything else that a quiet session does not do: its room is
                    // given back.
                    if !Box::pin(self.queue_report(session, report)).await {
                        return Some(Refusal::Draining.into());
                    }
                }
                Decision::Finish(status) => return status,
                Decision::Drain(reconnect_after) => {
                    Act::PushDrain.before();
                    session.send(Down::Drain(v1::Drain {
                        reconnect_after_ms: reconnect_after.as_millis() as u64,
                    }));
                    Act::PushDrain.after();
                    return None;
                }
            }
        }
    }

    /// Holds what a device said until it may say more. What it says meanwhile waits on its own
    /// side.
    async fn throttle(&self, session: &SessionHandle) {
        if session.exceeds_rate() {
            self.metrics.device_limits.with_label("messages").inc();
            tracing::debug!(device = %session.device, "a device says more than it may and is heard later");
            session.wait_for_rate().await;
        }
    }

    /// What a heartbeat says, in full.
    async fn record_heartbeat(&self, session: &SessionHandle, seq: u64, row: Box<v1::Heartbeat>) {
        let fault = DiskFault::from_wire(row.disk_fault());
        self.answer_heartbeat(session, seq, *row);
        self.record_disk_fault(session, fault).await;
    }

    /// Answers a heartbeat and keeps what it says.
    fn answer_heartbeat(&self, session: &SessionHandle, seq: u64, row: v1::Heartbeat) {
        Act::AckHeartbeat.before();
        session.send(Down::HeartbeatAck(v1::HeartbeatAck { seq }));
        Act::AckHeartbeat.after();
        // What runs cannot be told where nothing can be read.
        let is_well = row.disk_fault == 0;
        let said = row.releases.len();
        let releases = limits::releases(row.releases);
        if releases.is_none() {
            self.metrics.device_limits.with_label("releases").inc();
            tracing::debug!(device = %session.device, releases = said, "a heartbeat names more releases than any device has, or none that can be; they are not looked at");
        }
        self.recorder.heartbeat(HeartbeatRow {
            device: session.device,
            epoch: session.epoch,
            vital_signs: row.vital_signs.unwrap_or_default(),
            releases: releases.filter(|_| is_well),
            leftovers: row.leftovers,
            fits: false,
            sampled_at: None,
        });
    }

    /// Notes what is wrong with the disk of the agent's state folder.
    async fn record_disk_fault(&self, session: &SessionHandle, fault: Option<DiskFault>) {
        let (device, epoch) = (session.device, session.epoch);
        match self.store.record_disk_fault(device, epoch, fault).await {
            Ok(()) => {
                session.set_disk_fault(fault);
                match fault {
                    Some(fault) => {
                        tracing::warn!(%fault, "the state folder of the device is not well")
                    }
                    None => tracing::info!("the state folder of the device is well again"),
                }
            }
            // The next heartbeat says it again.
            Err(error) => {
                tracing::warn!(error = %chain(&error), "the state of a device's disk was not recorded");
            }
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
            // Nobody follows it, and a fleet of them is not free.
            Span::none()
        } else {
            let span = tracing::info_span!("report", device = %session.device, session = session.epoch, command = %attempt);
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
        // A full queue holds this session back, but not its end.
        tokio::select! {
            _ = session.ended() => true,
            queued = queued => queued,
        }
    }

    async fn record_configured(&self, session: &SessionHandle, answer: &v1::Configured) {
        self.throttle(session).await;
        if answer.heartbeat_interval_ms > 0 {
            // A device that may be asked for a beat an hour is not silent for being quiet.
            session.set_heartbeat(Duration::from_millis(answer.heartbeat_interval_ms));
        }
        if let Err(error) = self
            .store
            .configured(session.device, session.epoch, answer)
            .await
        {
            // It is pushed again in the next session, and answered again.
            tracing::warn!(error = %chain(&error), "the answer to a configuration was not recorded");
        }
    }

    async fn close(&self, session: &SessionHandle) {
        self.registry.remove(session.device, session.epoch);
        tracing::info!("session closed");
        // A stopping server closes the rows of all its sessions in one go.
        if !self.draining.is_cancelled() {
            self.mark_closed(session.device, session.epoch).await;
        }
    }

    async fn mark_closed(&self, device: DeviceId, epoch: u64) {
        if let Err(error) = self.committer.close(device, epoch).await {
            // The lease of this replica or the next session puts it right.
            tracing::warn!(error = %chain(&error), "session not marked as closed");
        }
    }
}

/// What the session does about it; a message is counted. A function of its own, so that an open
/// session has no room for it.
fn decide_for(session: &SessionHandle, wake: Wake) -> Decision {
    let decision = match session.is_ailing() {
        false => decide(wake),
        true => decide_ailing(wake),
    };
    if decision.is_counted() {
        session.count_message();
    }
    decision
}

/// Notes why a stream did not become a session. Of strangers the log speaks once a minute.
fn log_refusal(refusal: &Refusal, connection: &ConnectionHandle) {
    let reason = chain(refusal);
    if matches!(
        refusal,
        Refusal::NotAuthenticated(_) | Refusal::Malformed(_)
    ) {
        connection.failed(Credential::Hello);
    }
    if connection.is_stranger() {
        tracing::debug!(reason, "session refused");
        connection.refused("hello", &reason);
    } else {
        tracing::info!(reason, "session refused");
    }
}

fn send_handshake(
    out: &mpsc::Sender<Box<DeviceSessionResponse>>,
    message: Down,
) -> Result<(), Refusal> {
    let message = DeviceSessionResponse {
        message: Some(message),
    };
    out.try_send(Box::new(message)).map_err(|_| Refusal::Gone)
}

/// A secret for downloads and the hash of it that is stored.
fn session_token() -> (String, Digest) {
    let mut secret = [0; 32];
    rand::rngs::OsRng.fill_bytes(&mut secret);
    let text = URL_SAFE_NO_PAD.encode(secret);
    let hash = Digest::of(text.as_bytes());
    (text, hash)
}

/// The stops that `Welcome` tells of.
fn stop_commands(stops: Vec<(AttemptId, v1::Stop)>, epoch: u64) -> Vec<v1::Command> {
    let command = |(attempt, stop): (AttemptId, v1::Stop)| v1::Command {
        attempt: Some(attempt.into()),
        epoch,
        action: Some(v1::command::Action::Stop(stop)),
        ..v1::Command::default()
    };
    stops.into_iter().map(command).collect()
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
