//! Which commands are due. The rows are the queue; this reads its head for the sessions of this
//! replica.

use std::collections::{BTreeMap, BTreeSet};

use kernex_proto::ids::{DeploymentId, DeviceId};
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, FromQueryResult, QueryFilter, QueryOrder,
};

use crate::{
    clock::Timestamp,
    domain::{
        attempt::{Sent, State, UNHEARD},
        rollout::DeploymentState,
        schedule::{Schedule, Share},
    },
    store::{
        db::{error::Result, sizes::ID_CHUNK, store::Store, values::signed},
        entity::{
            signature,
            stored::{BundleId, Stored},
        },
        read::{
            commands::{self, DueCommand, DueKind},
            due_rows::{Row, queue},
            schedules,
        },
    },
};

impl Store {
    /// The commands that are due for these devices in these sessions: the oldest unresolved attempt
    /// of each bundle name, if it was not pushed in this session, and every stop that was not
    /// pushed in it. Both also when they were pushed, and nothing has been heard for [`UNHEARD`].
    /// Nothing for conflicted devices.
    ///
    /// Pushes are written later ([`mark_sent`](Self::mark_sent),
    /// [`mark_stops_sent`](Self::mark_stops_sent)). Who asks again before that gets the same
    /// commands.
    pub async fn due_commands(&self, sessions: &[(DeviceId, u64)]) -> Result<Vec<DueCommand>> {
        let read = self.in_flight().moment();
        let time = self.time();
        let now = time.unwrap_or_else(|| self.now());
        let epochs: BTreeMap<Stored<DeviceId>, i64> = sessions
            .iter()
            .map(|(id, epoch)| (Stored(*id), signed(*epoch)))
            .collect();
        let devices: Vec<Stored<DeviceId>> = epochs.keys().copied().collect();
        let mut due = Vec::new();
        let mut schedules = ScheduleCache::default();
        for chunk in devices.chunks(ID_CHUNK) {
            let mut head = None;
            for row in self.reader().query_all(&queue(chunk)).await? {
                let row = Row::from_query_result(&row, "")?;
                let queue = (row.device_id, row.bundle_name.clone());
                let is_head = head.as_ref() != Some(&queue);
                head = Some(queue);
                let epoch = epochs.get(&row.device_id).copied().unwrap_or(0);
                if row.stop_requested {
                    if row.stop_sent_epoch < epoch || is_unheard(&row, time) {
                        due.push(commands::stop(&row));
                    }
                } else if is_head
                    && (is_new(&row, epoch, time)
                        && (is_at_work(&row) || schedules.allows_start(&row, time))
                        || is_granted(&row, now))
                {
                    due.extend(commands::deploy(&row, now)?);
                }
            }
        }
        self.add_signatures(&mut due).await?;
        let due = due.into_iter().map(|(_, command)| command);
        Ok(due.map(|due| DueCommand { read, ..due }).collect())
    }

    async fn add_signatures(
        &self,
        due: &mut [(Option<Stored<BundleId>>, DueCommand)],
    ) -> Result<()> {
        let bundles: BTreeSet<Stored<BundleId>> =
            due.iter().filter_map(|(bundle, _)| *bundle).collect();
        if bundles.is_empty() {
            return Ok(());
        }
        let rows = signature::Entity::find()
            .filter(signature::Column::BundleId.is_in(bundles))
            .order_by_asc(signature::Column::KeyId)
            .all(self.reader())
            .await?;
        for (bundle, command) in due {
            let DueKind::Deploy(deploy) = &mut command.kind else {
                continue;
            };
            let theirs = rows.iter().filter(|row| Some(row.bundle_id) == *bundle);
            deploy.signatures = theirs.map(commands::signature).collect();
        }
        Ok(())
    }
}

/// Whether it waits for its device and was not pushed in this session. While the clock is not
/// trusted, no deadline has passed. An attempt that was accepted but, by these rows, never pushed
/// is pushed again: after a restore the device knows more than the rows, and otherwise a repetition
/// does no harm. Nothing of a paused deployment begins.
fn is_new(row: &Row, epoch: i64, now: Option<Timestamp>) -> bool {
    let paused = row.deployment_state == DeploymentState::Paused.as_str();
    let waits = row.state == State::Pending.as_str() || row.state == State::Sent.as_str();
    let waits = waits && !paused && now.is_none_or(|now| row.delivery_deadline > now.0);
    let unheard = row.state == State::Sent.as_str() && is_unheard(row, now);
    let sent = Sent(row.sent_epoch);
    let is_first = sent.is_new_to(epoch);
    waits && (is_first || unheard) || is_first && is_at_work(row) && !sent.is_known()
}

/// Whether the device has said nothing for so long since the push that it may not have arrived.
fn is_unheard(row: &Row, now: Option<Timestamp>) -> bool {
    now.is_some_and(|now| now.since(Timestamp(row.updated_at)) >= UNHEARD)
}

fn is_at_work(row: &Row) -> bool {
    row.state == State::Accepted.as_str() || row.state == State::Running.as_str()
}

/// The schedules of deployments, each read once. They only delay beginnings: stops, and further
/// runs of what has begun, are not held back.
#[derive(Default)]
struct ScheduleCache(BTreeMap<Stored<DeploymentId>, Option<Schedule>>);

impl ScheduleCache {
    /// Whether time allows an attempt to begin.
    fn allows_start(&mut self, row: &Row, now: Option<Timestamp>) -> bool {
        let Some(windows) = &row.windows else {
            return true;
        };
        let schedule = self.0.entry(row.deployment_id).or_insert_with(|| {
            let read = schedules::read(row.start_at, windows, row.spread_us.unwrap_or(0), None);
            read.inspect_err(|why| {
                // Beginning too early would be worse than not at all. Its delivery deadline ends
                // it.
                tracing::error!(deployment = %row.deployment_id, why, "its schedule cannot be read, so nothing of it begins");
            })
            .ok()
        });
        let Some(schedule) = schedule else {
            return false;
        };
        // Its time for delivery began when it was opened.
        let released = Timestamp(row.delivery_deadline.saturating_sub(row.delivery_us));
        let share = Share::new(row.deployment_id.0, row.device_id.0);
        schedule.is_due(released, share, now)
    }
}

/// Whether the device asked for more time, and that time has come.
fn is_granted(row: &Row, now: Timestamp) -> bool {
    is_at_work(row) && row.run_due_at.is_some_and(|due| due <= now.0)
}
