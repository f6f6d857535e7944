//! When the targets of a deployment may begin, as far as time decides it.

use crate::{
    clock::Timestamp,
    domain::{
        attempt::State,
        rollout::DeploymentState,
        schedule::{Schedule, Share},
    },
    store::{
        db::error::Result,
        entity::deployment,
        read::{schedules, scope::View, target_rows::Row},
    },
};

/// When the targets of one deployment begin.
pub(crate) struct StartTimes {
    schedule: Schedule,
    /// The deployment itself waits for its start.
    waits: bool,
    delivery_us: i64,
    now: Timestamp,
}

impl StartTimes {
    /// When this target may start, as far as time decides it.
    pub(crate) fn of(&self, row: &Row, state: State) -> Option<Timestamp> {
        let released = match state {
            // The time for delivery began when the target was opened.
            State::Pending => Timestamp(row.delivery_deadline.saturating_sub(self.delivery_us)),
            // The first phase opens with the start. When later phases open is not known.
            State::Held if self.waits && row.phase == 1 => self.now,
            _ => return None,
        };
        let share = Share::new(row.deployment_id.0, row.device_id.0);
        let at = self.schedule.begins_at(released, share, self.now);
        at.filter(|at| *at > self.now)
    }
}

impl View {
    /// When targets of this deployment may start; none when time does not hold them back, or when
    /// the clock is not trusted.
    pub(crate) async fn start_times(&self, row: &deployment::Model) -> Result<Option<StartTimes>> {
        let (Some(now), None) = (self.store.time(), row.finished_at) else {
            return Ok(None);
        };
        let Some(terms) = schedules::find(self.reader(), row.id.0).await? else {
            return Ok(None);
        };
        let schedule = schedules::from_row(&terms)?.schedule;
        Ok((!schedule.is_at_once()).then(|| StartTimes {
            schedule,
            waits: row.state == DeploymentState::Scheduled.as_str(),
            delivery_us: row.delivery_us,
            now,
        }))
    }
}
