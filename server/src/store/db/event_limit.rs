//! Limits the events that a device causes by its own reports: drift, the state of its disk, its
//! configuration. Watchers and the database pay for each event. What is shown of the device stays
//! true; only events are dropped.

use std::{num::NonZeroU32, time::Duration};

use governor::{Quota, RateLimiter, clock::DefaultClock, state::keyed::HashMapStateStore};
use kernex_proto::ids::DeviceId;
use prometheus_client::metrics::counter::Counter;

use crate::metrics::Transactions;

/// Events that a device may cause at once: an hour's worth.
const BURST: NonZeroU32 = NonZeroU32::new(60).unwrap();

/// After each of these it may cause one more.
const PERIOD: Duration = Duration::from_secs(60);

/// How many events each device has caused.
pub(crate) struct EventLimit {
    devices: RateLimiter<DeviceId, HashMapStateStore<DeviceId>, DefaultClock>,
    held_back: Counter,
}

impl EventLimit {
    pub(crate) fn new(figures: &Transactions) -> Self {
        let quota = Quota::with_period(PERIOD)
            .unwrap_or_else(|| Quota::per_minute(NonZeroU32::MIN))
            .allow_burst(BURST);
        Self {
            devices: RateLimiter::hashmap(quota),
            held_back: figures.device_limits.with_label("events"),
        }
    }

    /// Counts an event of a device; false when it has caused too many.
    pub(crate) fn take(&self, device: DeviceId) -> bool {
        let taken = self.devices.check_key(&device).is_ok();
        if !taken {
            self.held_back.inc();
            tracing::debug!(%device, "a device causes more events than it may");
        }
        taken
    }

    /// Forgets devices that have caused none for an hour.
    pub(crate) fn forget(&self) {
        self.devices.retain_recent();
        self.devices.shrink_to_fit();
    }
}

impl std::fmt::Debug for EventLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventLimit").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_causes_so_many_events_and_no_other_pays_for_it() {
        let figures = Transactions::default();
        let limit = EventLimit::new(&figures);
        let (loud, quiet) = (DeviceId::generate(), DeviceId::generate());
        let told = (0..1000).filter(|_| limit.take(loud)).count();
        assert_eq!(told, 60);
        assert!(limit.take(quiet));
        assert_eq!(figures.device_limits.with_label("events").get(), 940);
        limit.forget();
        assert!(!limit.take(loud));
    }
}
