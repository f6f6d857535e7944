//! Devices that become due by time alone: their next run, or their share of a spread. Only the near
//! future is kept. The timer of the dispatcher finds the rest.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use kernex_proto::ids::DeviceId;
use tokio::time::Instant;

/// Added to each moment, because a look that comes early finds nothing due.
const MARGIN: Duration = Duration::from_millis(1);

/// The next moment of each device that has one.
#[derive(Debug, Default)]
pub(super) struct Moments {
    queue: BTreeSet<(Instant, DeviceId)>,
    of: HashMap<DeviceId, Instant>,
}

impl Moments {
    /// Replaces what is known of devices that were just looked at.
    pub(super) fn replace(
        &mut self,
        looked_at: impl IntoIterator<Item = DeviceId>,
        found: Vec<(DeviceId, Duration)>,
        now: Instant,
    ) {
        for device in looked_at {
            self.forget(device);
        }
        for (device, wait) in found {
            let at = now + wait + MARGIN;
            if self.of.get(&device).is_none_or(|known| at < *known) {
                self.forget(device);
                self.queue.insert((at, device));
                self.of.insert(device, at);
            }
        }
    }

    /// The earliest of the moments.
    pub(super) fn first(&self) -> Option<Instant> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// Takes the devices whose moment has come.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<DeviceId> {
        let mut due = Vec::new();
        while let Some((at, device)) = self.queue.first().copied()
            && at <= now
        {
            self.forget(device);
            due.push(device);
        }
        due
    }

    fn forget(&mut self, device: DeviceId) {
        if let Some(at) = self.of.remove(&device) {
            self.queue.remove(&(at, device));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_device_has_its_next_moment_and_a_new_look_replaces_it() {
        let [one, two] = [(); 2].map(|()| DeviceId::generate());
        let now = Instant::now();
        let seconds = Duration::from_secs;
        let mut moments = Moments::default();
        assert_eq!(moments.first(), None);
        let found = vec![(one, seconds(3)), (two, seconds(2)), (one, seconds(1))];
        moments.replace([one, two], found, now);
        assert_eq!(moments.first(), Some(now + seconds(1) + MARGIN));
        assert!(moments.take_due(now).is_empty());
        assert_eq!(moments.take_due(now + seconds(2)), [one]);
        assert_eq!(moments.take_due(now + seconds(9)), [two]);
        moments.replace([one], vec![(one, seconds(5))], now);
        moments.replace([one], Vec::new(), now);
        assert_eq!(moments.first(), None, "it was cancelled, for instance");
        assert!(moments.of.is_empty());
    }
}
