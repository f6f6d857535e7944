//! Reconciles attempts: those that the rows say a device holds, with those that the device says it
//! holds.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use kernex_proto::{
    ids::{AttemptId, DeviceId, TargetId},
    v1,
};
use sea_orm::{ColumnTrait, Condition, EntityTrait, QueryFilter, QuerySelect};

use crate::{
    domain::{
        attempt::{Closing, Fact, Sent, State},
        device::ReturningJournal,
    },
    store::{
        db::{
            error::Result,
            sizes::{ID_CHUNK, padded},
            transaction::{Deciding, Tx},
        },
        entity::{attempt, stored::Stored, target},
        read::attempts::is_unresolved,
        write::{change_attempts::Batch, session_opening::SessionOpening},
    },
};

/// The stops of attempts that devices hold.
type Stops = HashMap<Stored<DeviceId>, Vec<(AttemptId, v1::Stop)>>;

/// Compares both lists and applies the difference. Conflicted devices are left out, because the
/// list of a copy says nothing about its device. The journal is the same as before.
///
/// * An attempt that is listed arrived, whether its push was noted or not.
/// * One that the journal had accepted and does not list has ended and was acknowledged: these rows
///   come from an older backup. It counts as never pushed. It is pushed again, and the device
///   answers from its journal and runs nothing.
/// * One that was pushed, is not accepted and is not listed never arrived. Like one that was never
///   pushed it can be superseded and stopped at once. That is done here for orders that came
///   meanwhile.
///
/// Returns the stops of attempts that devices hold, so that a device hears of them before it goes
/// on.
pub(crate) async fn reconcile_attempts(
    tx: &Deciding,
    openings: &[SessionOpening<'_>],
) -> Result<Stops> {
    let openings: BTreeMap<Stored<DeviceId>, &SessionOpening<'_>> = openings
        .iter()
        .filter(|opening| !opening.row.conflicted)
        .map(|opening| (opening.row.id, opening))
        .collect();
    // With the device, because no device can hold an attempt of another one.
    let held: HashMap<(Stored<DeviceId>, AttemptId), State> = openings
        .iter()
        .flat_map(|(device, opening)| {
            let held = opening.open.held.iter();
            held.map(|held| ((*device, held.attempt), held.state))
        })
        .collect();
    let theirs = Condition::all()
        .add(attempt::Column::DeviceId.is_in(padded(openings.keys().copied())))
        .add(is_unresolved());
    // From here on nothing is pushed into the older session, and what was pushed into it is known.
    let mut batch = Batch::deciding(tx);
    batch.load(theirs, None).await?;
    let named: Vec<Stored<TargetId>> = held
        .keys()
        .map(|(_, attempt)| Stored(attempt.target))
        .collect();
    for chunk in named.chunks(ID_CHUNK) {
        let named = Condition::all()
            .add(attempt::Column::TargetId.is_in(padded(chunk.iter().copied())))
            .add(attempt::Column::DeviceId.is_in(padded(openings.keys().copied())));
        batch.load(named, None).await?;
    }
    let mut untaken = BTreeSet::new();
    let mut stops = Stops::new();
    for (key, entry) in batch.iter_mut() {
        let Some(opening) = openings.get(&entry.row.device_id) else {
            continue;
        };
        let id = AttemptId {
            target: key.0.0,
            number: u32::try_from(key.1).unwrap_or(0),
        };
        let held = held.get(&(entry.row.device_id, id));
        if held.is_some() && !Sent(entry.row.sent_epoch).is_known() {
            // The attempt arrived, whether its push was noted or not.
            entry.row.sent_epoch = opening.row.epoch;
            entry.mark_dirty();
        }
        let event = match held {
            Some(state) if state.is_open() => Fact::Held,
            Some(_) => Fact::HeldEnded,
            None if opening.returned == ReturningJournal::Same && entry.facts().is_at_work() => {
                entry.take_push_back(opening.row.epoch);
                continue;
            }
            // The device may have accepted it and ended it after the backup of these rows. It is
            // pushed again, and the device says what became of it.
            None if opening.is_ahead() && entry.facts().state == State::Sent => continue,
            None => Fact::NotHeld,
        };
        let was_sent = entry.facts().state == State::Sent;
        let changed = entry.apply(event, tx.now).changed().is_some();
        if changed && was_sent && event == Fact::NotHeld {
            // A note of that push that comes late must not count.
            entry.take_push_back(opening.row.epoch);
            untaken.extend(entry.facts().untaken.then_some(entry.row.device_id));
        }
        let is_held = held.is_some_and(|state| state.is_open());
        if let Some(now) = tx.time().filter(|_| is_held) {
            // Its deadline may have passed while nobody looked.
            let _ = entry.close(tx, Closing::Tick, now);
        }
        if is_held && entry.facts().stop_requested {
            let theirs: &mut Vec<_> = stops.entry(entry.row.device_id).or_default();
            theirs.push((id, entry.facts().stop_order().into()));
        }
    }
    if !untaken.is_empty() {
        let newest = newest_generations(tx, &untaken).await?;
        for (_, entry) in batch.iter_mut() {
            let queue = (entry.row.device_id, entry.row.bundle_name.clone());
            let newest = newest.get(&queue).copied().unwrap_or_default();
            if entry.facts().untaken && newest > entry.row.generation {
                let _ = entry.close(tx, Closing::Supersede, tx.now);
            }
        }
    }
    batch.save().await?;
    Ok(stops)
}

/// The newest generation of each bundle name that was ever ordered for these devices, whatever
/// became of it. It supersedes an older attempt that never arrived, as it would have done when it
/// was ordered.
async fn newest_generations(
    tx: &Tx,
    devices: &BTreeSet<Stored<DeviceId>>,
) -> Result<HashMap<(Stored<DeviceId>, String), i64>> {
    let rows: Vec<(Stored<DeviceId>, String, i64)> = target::Entity::find()
        .select_only()
        .columns([target::Column::DeviceId, target::Column::BundleName])
        .column_as(target::Column::Generation.max(), "newest")
        .filter(target::Column::DeviceId.is_in(padded(devices.iter().copied())))
        .group_by(target::Column::DeviceId)
        .group_by(target::Column::BundleName)
        .into_tuple()
        .all(&tx.db)
        .await?;
    let rows = rows.into_iter();
    Ok(rows
        .map(|(device, name, newest)| ((device, name), newest))
        .collect())
}
