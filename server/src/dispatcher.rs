//! The reconciler: woken by a hint or a timer it does not ask why, loads what is due for the devices that are here, and
//! pushes it. The rows are the queue; losing a hint or a session loses nothing.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kernex_proto::{
    ids::DeviceId,
    v1::{self, command::Action, device_session_response::Message},
};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    crash::Act,
    error::chain,
    registry::{Pushed, Registry},
    store::{
        Store, StoreError,
        dispatch::{DueCommand, DueKind},
    },
};

/// Between two passes over everybody when nothing happens.
const CALM: Duration = Duration::from_secs(5);
/// The same while there is work, or after a pass that failed.
const BUSY: Duration = Duration::from_secs(1);

/// Between two looks at whether everybody's configuration still fits; other replicas and labels change it too.
const RECONCILED: Duration = Duration::from_secs(60);

/// Commands that may wait unread, some hundred bytes each.
const FRESH: usize = 20_000;
/// How long after its commit a command may be pushed without being read: who paused or cancelled it meanwhile may not have said
/// so yet.
const FRESH_FOR: Duration = Duration::from_millis(100);

/// Devices that may have something due; a set makes a thousand hints for one device a single look.
#[derive(Debug, Default)]
pub struct Hints {
    devices: Mutex<Hinted>,
    notify: Notify,
    rollouts: Notify,
}

#[derive(Debug, Default)]
struct Hinted {
    commands: HashSet<DeviceId>,
    /// Those among them whose configuration may be another one, which is rare and dear to find out.
    configurations: HashSet<DeviceId>,
    /// Commands that were just committed, so that nobody has to read them: one a device, and none of those among `commands`.
    fresh: HashMap<DeviceId, (DueCommand, Instant)>,
}

impl Hinted {
    /// Something about this device changed, so what is known of it has to be read. Says whether that is news.
    fn look(&mut self, device: DeviceId) -> bool {
        self.fresh.remove(&device);
        self.commands.insert(device)
    }

    /// This is all that changed about its device, unless something else did before, or too many wait.
    fn push(&mut self, command: DueCommand, now: Instant) {
        let device = command.device;
        let is_alone = !self.commands.contains(&device) && !self.fresh.contains_key(&device);
        if is_alone && self.fresh.len() < FRESH {
            self.fresh.insert(device, (command, now));
        } else {
            self.look(device);
        }
    }

    /// The commands that are still fresh; the devices of the others have to be looked at.
    fn take_fresh(&mut self, now: Instant) -> Vec<DueCommand> {
        let mut fresh = Vec::with_capacity(self.fresh.len());
        for (device, (command, since)) in std::mem::take(&mut self.fresh) {
            if now.duration_since(since) < FRESH_FOR {
                fresh.push(command);
            } else {
                self.commands.insert(device);
            }
        }
        fresh
    }
}

impl Hints {
    /// Asks for a look at the commands of these devices soon.
    pub fn add(&self, devices: impl IntoIterator<Item = DeviceId>) {
        self.hint(devices, false);
    }

    /// Asks for a look at their configurations as well: they have just come, or it or their labels changed.
    pub fn reconfigure(&self, devices: impl IntoIterator<Item = DeviceId>) {
        self.hint(devices, true);
    }

    /// Asks for these commands to be pushed, which are due and just committed.
    pub fn push(&self, commands: Vec<DueCommand>) {
        if commands.is_empty() {
            return;
        }
        let now = Instant::now();
        {
            let mut waiting = self.lock();
            for command in commands {
                waiting.push(command, now);
            }
        }
        self.notify.notify_one();
    }

    fn hint(&self, devices: impl IntoIterator<Item = DeviceId>, configurations: bool) {
        let mut hinted = false;
        {
            let mut waiting = self.lock();
            for device in devices {
                hinted |= waiting.look(device);
                if configurations {
                    hinted |= waiting.configurations.insert(device);
                }
            }
        }
        if hinted {
            self.notify.notify_one();
        }
    }

    /// How many devices wait for a look.
    #[must_use]
    pub fn waiting(&self) -> usize {
        let waiting = self.lock();
        waiting.commands.len() + waiting.fresh.len()
    }

    /// Asks for a look at the deployments that proceed in phases: an attempt ended, or an operator decided.
    pub fn rollouts(&self) {
        self.rollouts.notify_one();
    }

    /// Waits until somebody asked for that; hints in between are one.
    pub async fn rollouts_hinted(&self) {
        self.rollouts.notified().await;
    }

    fn take(&self) -> Hinted {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Hinted> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Pushes what is due until `stop`.
pub async fn run(
    store: Store,
    registry: Arc<Registry>,
    hints: Arc<Hints>,
    stop: CancellationToken,
) {
    let mut next_full = Instant::now() + BUSY;
    let mut next_reconciled = Instant::now();
    loop {
        let everybody = tokio::select! {
            () = stop.cancelled() => return,
            () = hints.notify.notified() => false,
            () = tokio::time::sleep_until(next_full) => true,
        };
        let mut hinted = hints.take();
        let fresh = hinted.take_fresh(Instant::now());
        if let Err(error) = push_fresh(&store, &registry, fresh).await {
            // The rows say that they wait, so they come up again.
            tracing::warn!(error = %chain(&error), "pushed commands are not noted");
        }
        let reconcile_all = everybody && Instant::now() >= next_reconciled;
        let reconciled = if reconcile_all {
            next_reconciled = Instant::now() + RECONCILED;
            registry.online()
        } else {
            registry.online_of(&hinted.configurations)
        };
        let configured = async {
            reconcile(&store, &reconciled).await?;
            let mut sessions = reconciled;
            if everybody && !reconcile_all {
                // What could not be pushed when it changed.
                sessions = registry.online_of(&store.devices_to_configure().await?);
            }
            configure(&store, &registry, &sessions).await
        };
        if let Err(error) = configured.await {
            tracing::warn!(error = %chain(&error), "configurations wait for the store");
            next_reconciled = Instant::now();
        }
        let result = if everybody {
            pass_over_everybody(&store, &registry).await
        } else {
            pass(&store, &registry, registry.online_of(&hinted.commands)).await
        };
        if everybody || result.is_err() {
            let pause = match &result {
                Ok(0) => CALM,
                Ok(_) => BUSY,
                Err(error) => {
                    tracing::warn!(error = %chain(error), "dispatch waits for the store");
                    BUSY
                }
            };
            next_full = Instant::now() + pause;
        }
    }
}

/// Notes where these devices are meant to work by something else than before.
async fn reconcile(store: &Store, sessions: &[(DeviceId, u64)]) -> Result<(), StoreError> {
    let devices: Vec<DeviceId> = sessions.iter().map(|(device, _)| *device).collect();
    store.reconcile_configurations(&devices).await
}

/// Pushes what these devices should work by, where that was not done in their sessions yet.
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

/// A look at all that are here and have an attempt open.
async fn pass_over_everybody(store: &Store, registry: &Registry) -> Result<usize, StoreError> {
    let waiting = store.devices_with_attempts().await?;
    pass(store, registry, registry.online_of(&waiting)).await
}

/// One look: asks what is due for these sessions and pushes what was not pushed in them yet. Returns how many it pushed.
async fn pass(
    store: &Store,
    registry: &Registry,
    sessions: Vec<(DeviceId, u64)>,
) -> Result<usize, StoreError> {
    if sessions.is_empty() {
        return Ok(0);
    }
    let due = store.due_commands(&sessions).await?;
    push(store, registry, due, &sessions).await
}

/// Pushes what was just committed.
async fn push_fresh(
    store: &Store,
    registry: &Registry,
    fresh: Vec<DueCommand>,
) -> Result<usize, StoreError> {
    if fresh.is_empty() {
        return Ok(0);
    }
    let devices = fresh.iter().map(|due| due.device).collect();
    push(store, registry, fresh, &registry.online_of(&devices)).await
}

/// Pushes commands into these sessions, where that was not done yet, and notes it. Returns how many it pushed.
async fn push(
    store: &Store,
    registry: &Registry,
    commands: Vec<DueCommand>,
    sessions: &[(DeviceId, u64)],
) -> Result<usize, StoreError> {
    let epochs: HashMap<_, _> = sessions.iter().copied().collect();
    let (mut sent, mut runs, mut stops) = (Vec::new(), Vec::new(), Vec::new());
    for due in commands {
        let Some(&epoch) = epochs.get(&due.device) else {
            continue;
        };
        let what = match due.kind {
            DueKind::Deploy(_) if due.run > 1 => Pushed::Run(due.attempt, due.run),
            DueKind::Deploy(_) => Pushed::Deploy(due.attempt),
            DueKind::Stop => Pushed::Stop(due.attempt),
        };
        let Some(session) = registry.claim(due.device, epoch, what, due.waited) else {
            continue;
        };
        let span = tracing::info_span!(
            "push",
            device = %due.device,
            session = epoch,
            command = %due.attempt,
        );
        kernex_proto::telemetry::set_parent(&span, &due.traceparent);
        let _entered = span.enter();
        let act = match what {
            Pushed::Deploy(_) => Act::PushDeploy,
            Pushed::Run(..) => Act::PushRun,
            Pushed::Stop(_) => Act::PushStop,
        };
        act.before();
        // A session that cannot take it is over; the next one finds the row as it is.
        if session.send(Message::Command(command(due, epoch))) {
            act.after();
            tracing::debug!("command pushed");
            match what {
                Pushed::Deploy(attempt) => sent.push((attempt, epoch)),
                Pushed::Run(attempt, run) => runs.push((attempt, run)),
                Pushed::Stop(attempt) => stops.push((attempt, epoch)),
            }
        }
    }
    // Written behind: when this fails the rows come up again, and the claims above keep them from a second push.
    if !sent.is_empty() {
        store.mark_sent(&sent).await?;
    }
    if !runs.is_empty() {
        store.mark_runs_sent(&runs).await?;
    }
    if !stops.is_empty() {
        store.mark_stops_sent(&stops).await?;
    }
    Ok(sent.len() + runs.len() + stops.len())
}

fn command(due: DueCommand, epoch: u64) -> v1::Command {
    let action = match due.kind {
        DueKind::Stop => Action::Stop(v1::Stop {}),
        DueKind::Deploy(deploy) => Action::Deploy(*deploy),
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

#[cfg(test)]
mod tests {
    use kernex_proto::ids::{AttemptId, TargetId};

    use super::*;

    fn command(device: DeviceId) -> DueCommand {
        DueCommand {
            device,
            attempt: AttemptId {
                target: TargetId::generate(),
                number: 1,
            },
            run: 1,
            kind: DueKind::Stop,
            remaining: Duration::ZERO,
            waited: Duration::ZERO,
            traceparent: String::new(),
        }
    }

    #[test]
    fn what_else_happens_to_a_device_has_its_rows_read() {
        let [alone, twice, before, after] = [(); 4].map(|()| DeviceId::generate());
        let now = Instant::now();
        let mut hinted = Hinted::default();
        hinted.look(before);
        for device in [alone, twice, before, after, twice] {
            hinted.push(command(device), now);
        }
        hinted.look(after);
        let fresh = hinted.take_fresh(now);
        assert_eq!(
            fresh.iter().map(|due| due.device).collect::<Vec<_>>(),
            [alone]
        );
        assert_eq!(hinted.commands, HashSet::from([twice, before, after]));
    }

    #[test]
    fn a_command_that_waited_is_read_again() {
        let (old, new) = (DeviceId::generate(), DeviceId::generate());
        let begun = Instant::now();
        let mut hinted = Hinted::default();
        hinted.push(command(old), begun);
        hinted.push(command(new), begun + FRESH_FOR);
        let fresh = hinted.take_fresh(begun + FRESH_FOR);
        assert_eq!(
            fresh.iter().map(|due| due.device).collect::<Vec<_>>(),
            [new]
        );
        assert_eq!(hinted.commands, HashSet::from([old]));
    }
}
