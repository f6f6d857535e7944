//! Which commands are due. The rows are the queue; this file reads its head for the sessions of
//! this replica.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use kernex_proto::ids::{DeploymentId, DeviceId};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder};

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
            due_rows::{DueRow, queue},
            joined::read_rows,
            schedules,
        },
    },
};

/// How far ahead [`Due::soon`] looks. The dispatcher has to ask again within this time.
const SOON: Duration = Duration::from_secs(10);

/// Least time that a further run is given. With less the attempt expires: the run would only be
/// killed.
const LEAST_RUN: Duration = Duration::from_secs(1);

/// What is due for some devices.
#[derive(Debug, Default)]
pub struct Due {
    pub commands: Vec<DueCommand>,
    /// Devices for which time alone makes something due, and after how long: at most ten seconds.
    /// The same device may be in it several times.
    pub soon: Vec<(DeviceId, Duration)>,
}

impl Store {
    /// The commands that are due for these devices in these sessions; see [`Self::due`].
    pub async fn due_commands(&self, sessions: &[(DeviceId, u64)]) -> Result<Vec<DueCommand>> {
        Ok(self.due(sessions).await?.commands)
    }

    /// The commands that are due for these devices in these sessions: the oldest unresolved attempt
    /// of each bundle name, if it was not pushed in this session, and every stop that was not
    /// pushed in it. Both are due again when the device said nothing for [`UNHEARD`]. Conflicted
    /// devices get nothing.
    ///
    /// Pushes are written later ([`mark_sent`](Self::mark_sent),
    /// [`mark_stops_sent`](Self::mark_stops_sent)). A second call before that gives the same
    /// commands.
    pub async fn due(&self, sessions: &[(DeviceId, u64)]) -> Result<Due> {
        let read = self.in_flight().moment();
        let time = self.time();
        let now = time.unwrap_or_else(|| self.now());
        let epochs: BTreeMap<Stored<DeviceId>, i64> = sessions
            .iter()
            .map(|(id, epoch)| (Stored(*id), signed(*epoch)))
            .collect();
        let devices: Vec<Stored<DeviceId>> = epochs.keys().copied().collect();
        let (mut due, mut soon) = (Vec::new(), Vec::new());
        let mut schedules = ScheduleCache::default();
        for chunk in devices.chunks(ID_CHUNK) {
            let mut head = None;
            for row in read_rows::<DueRow, _>(self.reader(), &queue(chunk)).await? {
                let queue = (row.device_id, row.bundle_name.clone());
                let is_head = head.as_ref() != Some(&queue);
                head = Some(queue);
                let epoch = epochs.get(&row.device_id).copied().unwrap_or(0);
                if row.stop_requested {
                    if row.stop_sent_epoch < epoch || is_unheard(&row, time) {
                        due.push(commands::stop(&row));
                    }
                } else if is_head {
                    let waits = wait(&row, epoch, time, now, &mut schedules);
                    match waits {
                        Some(Duration::ZERO) => due.extend(commands::deploy(&row, now)?),
                        Some(wait) => soon.push((row.device_id.0, wait)),
                        None => {}
                    }
                }
            }
        }
        self.add_signatures(&mut due).await?;
        let commands = due.into_iter().map(|(_, command)| command);
        let commands = commands.map(|due| DueCommand { read, ..due });
        Ok(Due {
            commands: commands.collect(),
            soon,
        })
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

/// How long the first attempt of a queue has to wait: zero when it is due, none when time alone
/// does not make it due soon.
fn wait(
    row: &DueRow,
    epoch: i64,
    time: Option<Timestamp>,
    now: Timestamp,
    schedules: &mut ScheduleCache,
) -> Option<Duration> {
    let begins = match is_new(row, epoch, time) {
        true if is_at_work(row) => Some(Duration::ZERO),
        true => schedules.begins_within(row, time),
        false => None,
    };
    begins.into_iter().chain(granted_within(row, now)).min()
}

/// Whether an attempt waits for its device and was not pushed in this session.
///
/// Without a trusted clock no deadline has passed. Nothing of a paused deployment begins. An
/// attempt that was accepted but never pushed, by these rows, is pushed again: after a restore the
/// device knows more than the rows, and a repetition does no harm.
fn is_new(row: &DueRow, epoch: i64, now: Option<Timestamp>) -> bool {
    let paused = row.deployment_state == DeploymentState::Paused.as_str();
    let waits = row.state == State::Pending.as_str() || row.state == State::Sent.as_str();
    let waits = waits && !paused && now.is_none_or(|now| row.delivery_deadline > now.0);
    let unheard = row.state == State::Sent.as_str() && is_unheard(row, now);
    let sent = Sent(row.sent_epoch);
    let is_first = sent.is_new_to(epoch);
    waits && (is_first || unheard) || is_first && is_at_work(row) && !sent.is_known()
}

/// Whether the device has been silent so long since the push that the push may be lost.
fn is_unheard(row: &DueRow, now: Option<Timestamp>) -> bool {
    now.is_some_and(|now| now.since(Timestamp(row.updated_at)) >= UNHEARD)
}

fn is_at_work(row: &DueRow) -> bool {
    row.state == State::Accepted.as_str() || row.state == State::Running.as_str()
}

/// The schedules of deployments, each parsed once. They delay beginnings only, not stops and not
/// further runs of what has begun.
#[derive(Default)]
struct ScheduleCache(BTreeMap<Stored<DeploymentId>, Option<Schedule>>);

impl ScheduleCache {
    /// How long an attempt has to wait until time allows it to begin, when that is soon.
    fn begins_within(&mut self, row: &DueRow, now: Option<Timestamp>) -> Option<Duration> {
        let Some(windows) = &row.windows else {
            return Some(Duration::ZERO);
        };
        let schedule = self.0.entry(row.deployment_id).or_insert_with(|| {
            let read = schedules::read(row.start_at, windows, row.spread_us.unwrap_or(0), None);
            read.inspect_err(|why| {
                // To begin too early would be worse than not to begin. The delivery deadline ends
                // it.
                tracing::error!(deployment = %row.deployment_id, why, "its schedule cannot be read, so nothing of it begins");
            })
            .ok()
        });
        let schedule = schedule.as_ref()?;
        // The time for delivery began when the target was opened.
        let released = Timestamp(row.delivery_deadline.saturating_sub(row.delivery_us));
        let share = Share::new(row.deployment_id.0, row.device_id.0);
        schedule.begins_within(SOON, released, share, now)
    }
}

/// How long until the delay that the device asked for is over, when that is soon.
fn granted_within(row: &DueRow, now: Timestamp) -> Option<Duration> {
    let due = Timestamp(row.run_due_at.filter(|_| is_at_work(row))?);
    // 0 when it has passed.
    let wait = due.since(now);
    let is_late = row.execution_deadline.is_some_and(|end| {
        let begins = Ord::max(due, now);
        Timestamp(end).since(begins) < LEAST_RUN
    });
    (wait <= SOON && !is_late).then_some(wait)
}
