//! The reconciler. A wake-up or a timer starts a pass. A pass loads what is due for the devices
//! that are here and pushes it. The rows are the queue: why a pass was started does not matter, and
//! a lost wake-up or session loses nothing.

use std::{collections::HashMap, sync::Arc, time::Duration};

use kernex_proto::{
    ids::DeviceId,
    telemetry,
    v1::{self, command::Action, device_session_response::Message},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Span;

use crate::{
    crash::Act,
    delivery::{
        moments::Moments,
        registry::{Pushed, Registry},
        wake_ups::WakeUps,
    },
    error::chain,
    store::{DueCommand, DueKind, Store, StoreError},
};

/// Between two passes over all devices when nothing happens.
const PASS_EVERY: Duration = Duration::from_secs(5);
/// The same while there is work, or after a pass that failed.
const PASS_EVERY_BUSY: Duration = Duration::from_secs(1);

/// Between two checks of the configuration of all devices. Other replicas and new labels change
/// which one applies.
const RECONCILE_EVERY: Duration = Duration::from_secs(60);

/// Pause after a pass over several devices, in which wake-ups gather for the next one. Fresh
/// commands do not wait for it.
const GATHER: Duration = Duration::from_millis(50);

/// Commands that are pushed in one go before sessions get to write them.
const AT_ONCE: usize = 64;

/// Pushes what is due until `stop`. `limits` go with each deploy.
pub async fn run(
    store: Store,
    registry: Arc<Registry>,
    wake_ups: Arc<WakeUps>,
    limits: Option<v1::ArchiveLimits>,
    stop: CancellationToken,
) {
    let mut next_full = Instant::now() + PASS_EVERY_BUSY;
    let mut next_reconciled = Instant::now();
    // Wake-ups gather until then.
    let mut gather_until = Instant::now();
    let mut moments = Moments::default();
    loop {
        let everybody = tokio::select! {
            () = stop.cancelled() => return,
            () = wake_ups.wait_for_devices(gather_until) => false,
            devices = store.in_flight().wait_for_refused() => {
                wake_ups.wake_devices(devices);
                continue;
            }
            () = store.in_flight().wait_for_unwritten() => {
                if let Err(error) = store.note_pushes().await {
                    tracing::warn!(error = %chain(&error), "pushed commands wait to be noted");
                }
                continue;
            }
            () = tokio::time::sleep_until(moments.first().unwrap_or(next_full)), if moments.first().is_some() => {
                wake_ups.wake_devices(moments.take_due(Instant::now()));
                continue;
            }
            () = tokio::time::sleep_until(next_full) => true,
        };
        let mut pusher = Pusher {
            store: &store,
            registry: &registry,
            moments: &mut moments,
            limits,
        };
        let mut pending = wake_ups.take_pending();
        let woken = pending.commands.len();
        let fresh = pending.take_fresh(Instant::now());
        if let Err(error) = pusher.push_fresh(fresh).await {
            // Their rows still say that they wait, so the next pass over all devices finds them.
            tracing::warn!(error = %chain(&error), "pushed commands are not noted");
        }
        let reconcile_all = everybody && Instant::now() >= next_reconciled;
        let reconciled = if reconcile_all {
            next_reconciled = Instant::now() + RECONCILE_EVERY;
            registry.online()
        } else {
            registry.online_of(&pending.configurations)
        };
        let configured = async {
            reconcile(&store, &reconciled).await?;
            let mut sessions = reconciled;
            if everybody && !reconcile_all {
                // Changes that could not be pushed when they were made.
                sessions = registry.online_of(&store.devices_to_configure().await?);
            }
            configure(&store, &registry, &sessions).await
        };
        if let Err(error) = configured.await {
            tracing::warn!(error = %chain(&error), "configurations wait for the store");
            next_reconciled = Instant::now();
        }
        let result = if everybody {
            pusher.pass_over_everybody().await
        } else {
            pusher.pass(registry.online_of(&pending.commands)).await
        };
        // After a single wake-up the next one does not wait.
        gather_until = Instant::now() + if woken > 1 { GATHER } else { Duration::ZERO };
        if everybody || result.is_err() {
            let pause = match &result {
                Ok(0) => PASS_EVERY,
                Ok(_) => PASS_EVERY_BUSY,
                Err(error) => {
                    tracing::warn!(error = %chain(error), "dispatch waits for the store");
                    PASS_EVERY_BUSY
                }
            };
            next_full = Instant::now() + pause;
        }
    }
}

/// Records for which of these devices another configuration applies than before.
async fn reconcile(store: &Store, sessions: &[(DeviceId, u64)]) -> Result<(), StoreError> {
    let devices: Vec<DeviceId> = sessions.iter().map(|(device, _)| *device).collect();
    store.reconcile_configurations(&devices).await
}

/// Pushes the configuration that applies to each of these devices, unless its session has it
/// already.
async fn configure(
    store: &Store,
    registry: &Registry,
    sessions: &[(DeviceId, u64)],
) -> Result<(), StoreError> {
    let epochs: HashMap<_, _> = sessions.iter().copied().collect();
    let mut sent = Vec::new();
    for (device, wanted) in store.due_configurations(sessions).await? {
        let (Some(&epoch), Some(session)) = (epochs.get(&device), registry.get(device)) else {
            continue;
        };
        let revision = wanted.revision;
        let command = v1::Command {
            epoch,
            action: Some(Action::Configure(wanted)),
            ..v1::Command::default()
        };
        Act::PushConfigure.before();
        if session.epoch == epoch && session.send(Message::Command(command)) {
            Act::PushConfigure.after();
            tracing::debug!(device = %device, revision, "configuration pushed");
            sent.push((device, revision, epoch));
        }
    }
    if !sent.is_empty() {
        store.mark_configurations_sent(&sent).await?;
    }
    Ok(())
}

struct Pusher<'a> {
    store: &'a Store,
    registry: &'a Registry,
    moments: &'a mut Moments,
    /// How much the archives may hold that devices fetch; `None` leaves it to the agents.
    limits: Option<v1::ArchiveLimits>,
}

impl Pusher<'_> {
    /// A pass over all devices that are here and have an open attempt.
    async fn pass_over_everybody(&mut self) -> Result<usize, StoreError> {
        let waiting = self.store.devices_with_attempts().await?;
        self.pass(self.registry.online_of(&waiting)).await
    }

    /// One pass: asks what is due for these sessions and pushes what was not pushed in them yet.
    /// Returns how many commands it pushed.
    async fn pass(&mut self, sessions: Vec<(DeviceId, u64)>) -> Result<usize, StoreError> {
        if sessions.is_empty() {
            return Ok(0);
        }
        let due = self.store.due(&sessions).await?;
        let looked_at = sessions.iter().map(|(device, _)| *device);
        self.moments.replace(looked_at, due.soon, Instant::now());
        self.push(due.commands, &sessions).await
    }

    /// Pushes commands that were committed a moment ago, without reading their rows.
    async fn push_fresh(&self, fresh: Vec<DueCommand>) -> Result<usize, StoreError> {
        if fresh.is_empty() {
            return Ok(0);
        }
        let devices = fresh.iter().map(|due| due.device).collect();
        self.push(fresh, &self.registry.online_of(&devices)).await
    }

    /// Pushes commands into these sessions, unless that was done, and notes it. Returns how many it
    /// pushed.
    async fn push(
        &self,
        commands: Vec<DueCommand>,
        sessions: &[(DeviceId, u64)],
    ) -> Result<usize, StoreError> {
        let epochs: HashMap<_, _> = sessions.iter().copied().collect();
        let (mut sent, mut runs, mut stops) = (0, Vec::new(), Vec::new());
        let mut commands = commands.into_iter().peekable();
        while commands.peek().is_some() {
            for due in commands.by_ref().take(AT_ONCE) {
                let Some(&epoch) = epochs.get(&due.device) else {
                    continue;
                };
                match self.push_one(due, epoch) {
                    Some(Pushed::Deploy(_)) => sent += 1,
                    Some(Pushed::Run(attempt, run)) => runs.push((attempt, run)),
                    Some(Pushed::Stop(attempt, going_back)) => {
                        stops.push((attempt, going_back, epoch));
                    }
                    None => {}
                }
            }
            // The sessions write what they have while the next ones get theirs.
            tokio::task::yield_now().await;
        }
        // Written later. When the write fails the rows come up again, and the claims prevent a
        // second push.
        if !runs.is_empty() {
            self.store.mark_runs_sent(&runs).await?;
        }
        if !stops.is_empty() {
            self.store.mark_stops_sent(&stops).await?;
        }
        Ok(sent + runs.len() + stops.len())
    }

    /// Pushes one command, unless that was done or its session is over.
    fn push_one(&self, due: DueCommand, epoch: u64) -> Option<Pushed> {
        let (what, act) = match due.kind {
            DueKind::Deploy(_) if due.run > 1 => (Pushed::Run(due.attempt, due.run), Act::PushRun),
            DueKind::Deploy(_) => (Pushed::Deploy(due.attempt), Act::PushDeploy),
            DueKind::Stop(stop) => (Pushed::Stop(due.attempt, stop.going_back), Act::PushStop),
        };
        let session = self
            .registry
            .claim_push(due.device, epoch, what, due.waited)?;
        let (device, attempt) = (due.device, due.attempt);
        let flight = self.store.in_flight();
        // A command that begins something is not pushed while a decision about its attempt is under
        // way.
        let may = match what {
            Pushed::Deploy(_) => flight.record_push(device, attempt, epoch, due.read),
            Pushed::Run(..) => flight.may_push(device, attempt, due.read),
            Pushed::Stop(..) => true,
        };
        if !may {
            self.registry.unclaim_push(device, epoch, what);
            return None;
        }
        let span = if due.traceparent.is_empty() {
            // Nobody traces this command, and a span for each device of a fleet costs time.
            Span::none()
        } else {
            let span = tracing::info_span!(
                "push",
                otel.kind = "producer",
                device = %due.device,
                session = epoch,
                command = %due.attempt,
                trace_id = tracing::field::Empty,
            );
            telemetry::set_parent(&span, &due.traceparent);
            span
        };
        let _entered = span.enter();
        act.before();
        // A session that cannot take the command has ended. The next session finds the row
        // unchanged.
        if !session.send(Message::Command(command(due, epoch, self.limits))) {
            flight.undo_push(attempt, epoch);
            return None;
        }
        act.after();
        tracing::debug!(%device, session = epoch, command = %attempt, "command pushed");
        Some(what)
    }
}

fn command(due: DueCommand, epoch: u64, limits: Option<v1::ArchiveLimits>) -> v1::Command {
    let action = match due.kind {
        DueKind::Stop(stop) => Action::Stop(stop),
        DueKind::Deploy(deploy) => Action::Deploy(v1::Deploy { limits, ..*deploy }),
    };
    v1::Command {
        attempt: Some(due.attempt.into()),
        remaining_ms: due.remaining.as_millis().try_into().unwrap_or(u64::MAX),
        traceparent: due.traceparent,
        epoch,
        run: due.run,
        action: Some(action),
    }
}
