//! One light agent: connects, proves its identity, sends heartbeats, answers commands, reconnects.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use kernex_proto::{
    PROTOCOL_REVISION,
    handshake::ChannelBinding,
    v1::{
        ActiveRelease, Challenge, Command, DeviceSessionRequest, DeviceSessionResponse,
        Disposition, Heartbeat, Hello, Inventory, Ready, Unsupported, VitalSigns, Welcome, command,
        device_session_request as up, device_session_response as down,
    },
};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::{sleep, sleep_until},
};
use tonic_types::StatusExt as _;

use super::{
    Connector, Counters, HeartbeatPace, Identity, Options, Pool,
    behaviour::Behaviour,
    counters::count,
    heartbeats::Heartbeats,
    journal::{AcknowledgedReport, Journal},
    wire::{Receiver, Sender, Wire, WireError},
};

const SESSION: &str = "/kernex.v1.AgentService/DeviceSession";

/// Connecting, proof and Welcome may take this long.
const OPENING_LIMIT: Duration = Duration::from_secs(20);

/// A command that arrived at an agent.
#[derive(Debug, Clone)]
pub struct Received {
    /// Which agent of the roster.
    pub agent: usize,
    /// When it arrived.
    pub at: Instant,
    pub command: Command,
    /// The session token, for downloads.
    pub session_token: String,
}

/// Everything one light agent needs.
#[derive(Debug)]
pub(super) struct Agent {
    pub(super) number: usize,
    pub(super) identity: Identity,
    pub(super) pool: Arc<Pool>,
    pub(super) connector: Connector,
    pub(super) options: Options,
    pub(super) openings: Arc<Semaphore>,
    pub(super) counters: Arc<Counters>,
    pub(super) orders: watch::Receiver<Behaviour>,
    pub(super) received: Option<mpsc::UnboundedSender<Received>>,
}

/// What outlives a connection.
#[derive(Debug, Default)]
struct AgentState {
    last_epoch: u64,
    journal: Journal,
    release: Option<ActiveRelease>,
}

struct Session {
    wire: Wire,
    up: Sender,
    down: Receiver,
    welcome: Welcome,
}

impl Agent {
    /// Runs until it is dropped.
    pub(super) async fn run(mut self) {
        let mut memory = AgentState::default();
        let mut failures = 0;
        sleep(self.options.spread.mul_f64(rand::random())).await;
        loop {
            let openings = Arc::clone(&self.openings);
            let turn = openings.acquire().await;
            let begun = Instant::now();
            let opening = self.open(&mut memory);
            let opened = tokio::time::timeout(OPENING_LIMIT, opening).await;
            drop(turn);
            let mut directed = None;
            match opened {
                Ok(Ok(session)) => {
                    failures = 0;
                    self.counters.opening.record(begun.elapsed());
                    count(&self.counters.opened);
                    self.counters.online.fetch_add(1, Relaxed);
                    let ended = Box::pin(self.live(session, &mut memory)).await;
                    self.counters.online.fetch_sub(1, Relaxed);
                    count(&self.counters.lost);
                    directed = match ended {
                        Ok(wait) => wait,
                        Err(error) => asked(&error),
                    };
                }
                Ok(Err(error)) => {
                    failures += 1;
                    directed = asked(&error);
                    count(match error {
                        WireError::Status(_) => &self.counters.refused,
                        _ => &self.counters.failed,
                    });
                }
                Err(_) => {
                    failures += 1;
                    count(&self.counters.failed);
                }
            }
            let wait = self.options.backoff.wait(failures, rand::random());
            sleep(directed.unwrap_or(wait)).await;
        }
    }

    async fn open(&mut self, memory: &mut AgentState) -> Result<Session, WireError> {
        // A cut that was ordered while it is away is not for this connection.
        self.orders.mark_unchanged();
        let mut wire = self.connector.connect(self.number).await?;
        let calls = wire.calls.clone();
        let binding = wire.binding;
        let identity = &self.identity;
        let proof = async {
            let (mut up, mut down) = calls.open(SESSION, &[]).await?;
            let challenge = match next(&mut down).await? {
                down::Message::Challenge(challenge) => challenge,
                _ => return Err(WireError::NotGrpc("the server opened without Challenge")),
            };
            send(
                &mut up,
                up::Message::Hello(self.hello(identity, &challenge, &binding, memory)?),
            )?;
            let welcome = match next(&mut down).await? {
                down::Message::Welcome(welcome) => welcome,
                _ => return Err(WireError::NotGrpc("the answer to Hello is not Welcome")),
            };
            let epoch = welcome.epoch;
            send(&mut up, up::Message::Ready(Ready { epoch }))?;
            Ok((up, down, welcome))
        };
        let (up, down, welcome) = wire.during(proof).await?;
        memory.last_epoch = welcome.epoch;
        Ok(Session {
            wire,
            up,
            down,
            welcome,
        })
    }

    fn hello(
        &self,
        identity: &Identity,
        challenge: &Challenge,
        binding: &ChannelBinding,
        memory: &AgentState,
    ) -> Result<Hello, WireError> {
        let hello = Hello {
            device_id: identity.device.to_string(),
            client_nonce: rand::random::<[u8; 32]>().to_vec().into(),
            boot_id: "5f3c1f6e-0000-4000-8000-000000000001".into(),
            journal_id: identity.journal.to_string(),
            last_epoch: memory.last_epoch,
            protocol_revision: PROTOCOL_REVISION,
            capabilities: vec!["stop".into()],
            agent_version: Pool::version(identity.key),
            inventory: Some(Inventory {
                os: "linux".into(),
                arch: std::env::consts::ARCH.into(),
                hostname: "light".into(),
                kernel: "0".into(),
                cpu_count: 1,
                memory_bytes: 1 << 30,
            }),
            held_attempts: memory.journal.held(),
            ..Hello::default()
        };
        self.pool
            .signed_hello(identity, challenge, binding, hello)
            .ok_or(WireError::NotGrpc("a Challenge nobody can sign"))
    }

    /// Sends heartbeats and answers until the session ends; returns how long the server asked it to
    /// wait.
    async fn live(
        &mut self,
        session: Session,
        memory: &mut AgentState,
    ) -> Result<Option<Duration>, WireError> {
        let Session {
            mut wire,
            mut up,
            mut down,
            welcome,
        } = session;
        for report in memory.journal.unacknowledged() {
            send(&mut up, up::Message::Report(report))?;
        }
        let mut orders = *self.orders.borrow();
        let mut beats = Heartbeats::new(&welcome, orders.pace);
        if orders.pace == HeartbeatPace::Closed {
            self.beat(&mut up, &mut beats, memory)?;
        }
        loop {
            tokio::select! {
                biased;
                over = wire.drive() => return over.map(|()| None),
                message = down.next::<DeviceSessionResponse>() => match message?.and_then(|response| response.message) {
                    Some(down::Message::Drain(drain)) => {
                        return Ok(Some(Duration::from_millis(drain.reconnect_after_ms)));
                    }
                    Some(down::Message::HeartbeatAck(ack)) => {
                        count(&self.counters.heartbeat_acks);
                        if let Some(took) = beats.acknowledged(ack.seq) {
                            self.counters.heartbeat.record(took);
                        }
                        if orders.pace == HeartbeatPace::Closed {
                            self.beat(&mut up, &mut beats, memory)?;
                        }
                    }
                    Some(message) => self.handle_message(message, &welcome, orders, &mut up, memory)?,
                    None => return Ok(None),
                },
                () = sleep_until(beats.next.into()), if beats.interval.is_some() => {
                    self.beat(&mut up, &mut beats, memory)?;
                }
                changed = self.orders.changed() => {
                    if changed.is_err() {
                        return Ok(None);
                    }
                    let new = *self.orders.borrow_and_update();
                    if new.cuts != orders.cuts {
                        return Ok(None);
                    }
                    if new.pace != orders.pace {
                        beats.set(&welcome, new.pace);
                        if new.pace == HeartbeatPace::Closed {
                            self.beat(&mut up, &mut beats, memory)?;
                        }
                    }
                    orders = new;
                }
            }
        }
    }

    fn beat(
        &self,
        up: &mut Sender,
        beats: &mut Heartbeats,
        memory: &AgentState,
    ) -> Result<(), WireError> {
        let heartbeat = Heartbeat {
            seq: beats.sent(),
            vital_signs: Some(VitalSigns {
                cpu_percent: 12.5,
                memory_used_mb: 512,
                memory_total_mb: 1024,
                disk_free_bytes: 1 << 33,
                disk_total_bytes: 1 << 34,
                uptime_seconds: 86_400,
            }),
            releases: memory.release.iter().cloned().collect(),
            ..Heartbeat::default()
        };
        count(&self.counters.heartbeats);
        send(up, up::Message::Heartbeat(heartbeat))
    }

    fn handle_message(
        &self,
        message: down::Message,
        welcome: &Welcome,
        orders: Behaviour,
        up: &mut Sender,
        memory: &mut AgentState,
    ) -> Result<(), WireError> {
        match message {
            down::Message::Command(command) => {
                let at = Instant::now();
                self.carry_out(&command, orders, up, memory)?;
                if let Some(received) = &self.received {
                    let session_token = welcome.session_token.clone();
                    let agent = self.number;
                    // At the end of a run the receiver is gone.
                    let _ = received.send(Received {
                        agent,
                        at,
                        command,
                        session_token,
                    });
                }
            }
            down::Message::Ack(ack) => {
                let settled = memory.journal.acknowledge(&ack);
                match settled {
                    Some(AcknowledgedReport::Accepted) => count(&self.counters.accepted),
                    Some(AcknowledgedReport::Outcome) => count(&self.counters.outcomes),
                    None => {}
                }
                match ack.disposition() {
                    Disposition::Applied | Disposition::Duplicate => {}
                    Disposition::Late if settled == Some(AcknowledgedReport::Outcome) => {
                        count(&self.counters.late);
                    }
                    Disposition::Late => {}
                    _ => count(&self.counters.not_applied),
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn carry_out(
        &self,
        command: &Command,
        orders: Behaviour,
        up: &mut Sender,
        memory: &mut AgentState,
    ) -> Result<(), WireError> {
        let reports = match &command.action {
            Some(command::Action::Deploy(deploy)) => {
                match memory.journal.take(command, deploy, orders.deploys) {
                    Some(reports) => {
                        count(&self.counters.deploys);
                        if orders.deploys == super::DeployBehaviour::Succeed {
                            memory.release = Some(ActiveRelease {
                                name: deploy.name.clone(),
                                version: deploy.version.clone(),
                                digest: deploy.digest.clone(),
                                ..ActiveRelease::default()
                            });
                        }
                        reports
                    }
                    None => {
                        count(&self.counters.repeated);
                        Vec::new()
                    }
                }
            }
            Some(command::Action::Stop(_)) => match &command.attempt {
                Some(attempt) => memory.journal.stop(attempt),
                None => Vec::new(),
            },
            _ => {
                let unsupported = Unsupported {
                    attempt: command.attempt.clone(),
                    detail: "light agents do not know this command".into(),
                };
                return send(up, up::Message::Unsupported(unsupported));
            }
        };
        for report in reports {
            send(up, up::Message::Report(report))?;
        }
        Ok(())
    }
}

async fn next(down: &mut Receiver) -> Result<down::Message, WireError> {
    let response: Option<DeviceSessionResponse> = down.next().await?;
    let message = response.and_then(|response| response.message);
    message.ok_or(WireError::NotGrpc("the stream ended before it was open"))
}

fn send(up: &mut Sender, message: up::Message) -> Result<(), WireError> {
    up.send(&DeviceSessionRequest {
        message: Some(message),
    })
}

/// How long the server asks it to wait before it reconnects.
fn asked(error: &WireError) -> Option<Duration> {
    match error {
        WireError::Status(status) => status.get_details_retry_info()?.retry_delay,
        _ => None,
    }
}
