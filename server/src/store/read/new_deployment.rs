//! An order for a deployment, as an operator gives it.

use std::time::Duration;

use kernex_proto::ids::DeviceId;

use crate::{
    clock::Timestamp,
    domain::{rollout::Rollout, schedule::Schedule, selector::Selector},
    store::db::error::{Result, StoreError},
};

#[derive(Debug, Clone)]
pub struct NewDeployment {
    /// "name:version" or digest.
    pub bundle: String,
    pub device_ids: Vec<DeviceId>,
    pub device_names: Vec<String>,
    /// Devices by label; none selects none.
    pub selector: Option<Selector>,
    /// How long an attempt may wait for its device.
    pub delivery: Duration,
    /// How long an attempt may take once accepted.
    pub execution: Duration,
    /// W3C trace context of the order, empty when there is none.
    pub traceparent: String,
    /// How to proceed; none opens every target at once.
    pub rollout: Option<Rollout>,
    /// When its targets may begin, and which devices are added later.
    pub terms: Terms,
    /// What its maker notes about it.
    pub message: String,
}

/// What an order says about its name, time, later devices and penalties.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Terms {
    /// The name that its maker gave it, or empty.
    pub name: String,
    /// When its targets may begin.
    pub schedule: Schedule,
    /// Its deadline as a time after the start, where it is not given as an instant.
    pub deadline_after: Option<Duration>,
    /// Devices that come to match this later are added.
    pub dynamic: Option<Selector>,
    /// Failures in a row after which a device is left out; 0 for never.
    pub penalty_after: u32,
}

/// A start may have passed by so much: the order was on its way, and clocks differ.
const START_PASSED: Duration = Duration::from_secs(60);

impl Terms {
    /// The schedule of an order that is given now, or what is wrong with it. An attempt waits at
    /// most `delivery`.
    pub(crate) fn schedule_at(&self, now: Timestamp, delivery: Duration) -> Result<Schedule> {
        let mut schedule = self.schedule.clone();
        if let Some(passed) = schedule.start
            && passed.plus(START_PASSED) < now
        {
            // The deployment would begin at once, which nobody asked for.
            return Err(StoreError::Invalid {
                field: "schedule.start_at",
                why: "it has passed already; leave it out to begin at once".to_owned(),
            });
        }
        let start = schedule.start.map_or(now, |start| start.max(now));
        if schedule.deadline.is_none() {
            schedule.deadline = self.deadline_after.map(|after| start.plus(after));
        }
        let fault = schedule.fault(now).or_else(|| {
            let opens = schedule.next_opening(start)?;
            let why = "none opens before the delivery timeout is over; a longer one helps";
            (opens >= start.plus(delivery)).then(|| ("schedule.windows", why.to_owned()))
        });
        match fault {
            Some((field, why)) => Err(StoreError::Invalid { field, why }),
            None => Ok(schedule),
        }
    }
}
