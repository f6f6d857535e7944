//! The dispatcher's queue of wake-ups: devices whose rows have to be read again, and commands that
//! were committed a moment ago and need not be read. It may lose everything, because a timer finds
//! the same work in the rows.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use kernex_proto::ids::DeviceId;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use crate::store::DueCommand;

/// Fresh commands that may wait, some hundred bytes each.
const MOST_FRESH: usize = 20_000;
/// How long a command counts as fresh. After this its row is read again before it is pushed: it may
/// have been paused or cancelled since its commit.
const FRESH_FOR: Duration = Duration::from_millis(100);

/// Devices that may have something due. A thousand wake-ups for one device make the dispatcher read
/// its rows once, because this is a set.
#[derive(Debug, Default)]
pub struct WakeUps {
    pending: Mutex<PendingWakeUps>,
    notify: Notify,
    rollouts: Notify,
}

#[derive(Debug, Default)]
pub(super) struct PendingWakeUps {
    pub(super) commands: HashSet<DeviceId>,
    /// Those devices whose configuration may have changed. That is rare, and costly to find out.
    pub(super) configurations: HashSet<DeviceId>,
    /// Commands that were just committed, at most one for a device. None for a device in
    /// `commands`, whose rows are read anyway.
    fresh: HashMap<DeviceId, (DueCommand, Instant)>,
}

impl PendingWakeUps {
    /// Has the rows of this device read. Says whether that was news.
    fn reread(&mut self, device: DeviceId) -> bool {
        self.fresh.remove(&device);
        self.commands.insert(device)
    }

    /// Keeps the command as fresh if nothing else changed about its device and there is room.
    /// Otherwise the rows of the device are read.
    fn add_fresh(&mut self, command: DueCommand, now: Instant) {
        let device = command.device;
        let is_alone = !self.commands.contains(&device) && !self.fresh.contains_key(&device);
        if is_alone && self.fresh.len() < MOST_FRESH {
            self.fresh.insert(device, (command, now));
        } else {
            self.reread(device);
        }
    }

    /// Takes the commands that are still fresh. For all others the rows of their devices are read.
    pub(super) fn take_fresh(&mut self, now: Instant) -> Vec<DueCommand> {
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

impl WakeUps {
    /// Has the due commands of these devices read and pushed soon.
    pub fn wake_devices(&self, devices: impl IntoIterator<Item = DeviceId>) {
        self.wake(devices, false);
    }

    /// The same, and their configurations are checked as well: the devices have just come, or their
    /// labels or a configuration changed.
    pub fn wake_configurations(&self, devices: impl IntoIterator<Item = DeviceId>) {
        self.wake(devices, true);
    }

    /// Has these commands pushed. They are due and were committed a moment ago.
    pub fn push_fresh(&self, commands: Vec<DueCommand>) {
        if commands.is_empty() {
            return;
        }
        let now = Instant::now();
        {
            let mut waiting = self.pending.lock();
            for command in commands {
                waiting.add_fresh(command, now);
            }
        }
        self.notify.notify_one();
    }

    fn wake(&self, devices: impl IntoIterator<Item = DeviceId>, configurations: bool) {
        let mut pending = false;
        {
            let mut waiting = self.pending.lock();
            for device in devices {
                pending |= waiting.reread(device);
                if configurations {
                    pending |= waiting.configurations.insert(device);
                }
            }
        }
        if pending {
            self.notify.notify_one();
        }
    }

    /// How many devices wait for the dispatcher.
    #[must_use]
    pub fn waiting_devices(&self) -> usize {
        let waiting = self.pending.lock();
        waiting.commands.len() + waiting.fresh.len()
    }

    /// Has deployments with phases looked at, because an attempt ended or an operator decided
    /// something.
    pub fn wake_rollouts(&self) {
        self.rollouts.notify_one();
    }

    /// Waits until there is something to take. Fresh commands are taken at once, devices not before
    /// `from`.
    pub(super) async fn wait_for_devices(&self, from: Instant) {
        loop {
            let (fresh, looks) = {
                let waiting = self.pending.lock();
                let looks = !(waiting.commands.is_empty() && waiting.configurations.is_empty());
                (!waiting.fresh.is_empty(), looks)
            };
            if fresh || looks && Instant::now() >= from {
                return;
            }
            tokio::select! {
                () = self.notify.notified() => {}
                () = tokio::time::sleep_until(from), if looks => {}
            }
        }
    }

    /// Waits for [`Self::wake_rollouts`]. Several calls in between count as one.
    pub async fn wait_for_rollouts(&self) {
        self.rollouts.notified().await;
    }

    pub(super) fn take_pending(&self) -> PendingWakeUps {
        std::mem::take(&mut *self.pending.lock())
    }
}

#[cfg(test)]
mod tests {
    use kernex_proto::ids::{AttemptId, TargetId};

    use super::*;
    use crate::store::DueKind;

    fn command(device: DeviceId) -> DueCommand {
        DueCommand {
            device,
            attempt: AttemptId {
                target: TargetId::generate(),
                number: 1,
            },
            run: 1,
            kind: DueKind::Stop(kernex_proto::v1::Stop::default()),
            remaining: Duration::ZERO,
            waited: Duration::ZERO,
            traceparent: String::new(),
            read: 0,
        }
    }

    #[test]
    fn what_else_happens_to_a_device_has_its_rows_read() {
        let [alone, twice, before, after] = [(); 4].map(|()| DeviceId::generate());
        let now = Instant::now();
        let mut pending = PendingWakeUps::default();
        pending.reread(before);
        for device in [alone, twice, before, after, twice] {
            pending.add_fresh(command(device), now);
        }
        pending.reread(after);
        let fresh = pending.take_fresh(now);
        assert_eq!(
            fresh.iter().map(|due| due.device).collect::<Vec<_>>(),
            [alone]
        );
        assert_eq!(pending.commands, HashSet::from([twice, before, after]));
    }

    #[tokio::test(start_paused = true)]
    async fn wake_ups_gather_and_what_was_just_committed_does_not_wait_for_them() {
        let wake_ups = WakeUps::default();
        let begun = Instant::now();
        let from = begun + Duration::from_millis(20);
        let never =
            tokio::time::timeout(Duration::from_secs(9), wake_ups.wait_for_devices(begun)).await;
        assert!(never.is_err(), "there is nothing to take");
        let (begun, from) = (Instant::now(), Instant::now() + (from - begun));
        wake_ups.wake_devices([DeviceId::generate()]);
        // The wait may be cancelled and begun again.
        let short =
            tokio::time::timeout(Duration::from_millis(5), wake_ups.wait_for_devices(from)).await;
        assert!(short.is_err(), "it is too early");
        wake_ups.wait_for_devices(from).await;
        assert_eq!(begun.elapsed(), Duration::from_millis(20));
        let later = Instant::now() + Duration::from_secs(1);
        wake_ups.push_fresh(vec![command(DeviceId::generate())]);
        wake_ups.wait_for_devices(later).await;
        assert_eq!(begun.elapsed(), Duration::from_millis(20));
    }

    #[test]
    fn a_command_that_waited_is_read_again() {
        let (old, new) = (DeviceId::generate(), DeviceId::generate());
        let begun = Instant::now();
        let mut pending = PendingWakeUps::default();
        pending.add_fresh(command(old), begun);
        pending.add_fresh(command(new), begun + FRESH_FOR);
        let fresh = pending.take_fresh(begun + FRESH_FOR);
        assert_eq!(
            fresh.iter().map(|due| due.device).collect::<Vec<_>>(),
            [new]
        );
        assert_eq!(pending.commands, HashSet::from([old]));
    }
}
