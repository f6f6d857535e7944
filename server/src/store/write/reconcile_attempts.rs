//! What the server believes devices hold, against what they say they hold.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use kernex_proto::{
    ids::{AttemptId, TargetId},
    v1,
};
use sea_orm::{ColumnTrait, Condition, EntityTrait, QueryFilter, QuerySelect};
use uuid::Uuid;

use crate::{
    domain::{
        attempt::{Closing, Fact, Sent, State},
        device::Return,
    },
    store::{
        db::{
            error::Result,
            sizes::{ID_CHUNK, padded},
            transaction::{Deciding, Tx},
        },
        entity::{attempt, target},
        read::attempts::is_unresolved,
        write::{change_attempts::Batch, session_opening::SessionOpening},
    },
};

/// Stops of what devices hold.
type Stops = HashMap<Uuid, Vec<(AttemptId, v1::Stop)>>;

/// Compares what the server believes the devices hold with what they say they hold. A copy's list
/// says nothing about what its device does.
///
/// A journal that is still the same has not lost what it accepted: when it does not list such an
/// attempt, that has ended and was acknowledged, and these rows are of an older backup. It counts
/// as never pushed; the device, asked again, answers from its journal and runs nothing.
///
/// What was pushed, not accepted, and is not listed never got there. It gives way to newer orders
/// and stops like what was never pushed, here for those that have come already.
///
/// Gives the stops of what they hold, by device: who comes back late is told before it goes on.
pub(crate) async fn reconcile_attempts(
    tx: &Deciding,
    openings: &[SessionOpening<'_>],
) -> Result<Stops> {
    let openings: BTreeMap<Uuid, &SessionOpening<'_>> = openings
        .iter()
        .filter(|opening| !opening.row.conflicted)
        .map(|opening| (opening.row.id, opening))
        .collect();
    // By device as well: nobody holds what is another one's.
    let held: HashMap<(Uuid, AttemptId), State> = openings
        .iter()
        .flat_map(|(device, opening)| {
            let held = opening.open.held.iter();
            held.map(|held| ((*device, held.attempt), held.state))
        })
        .collect();
    let theirs = Condition::all()
        .add(attempt::Column::DeviceId.is_in(padded(openings.keys().copied())))
        .add(is_unresolved());
    // What an older session was given and nobody noted is known here; nothing more is pushed into
    // it.
    let mut batch = Batch::deciding(tx);
    batch.load(theirs, None).await?;
    let named: Vec<Uuid> = held.keys().map(|(_, attempt)| attempt.target.0).collect();
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
            target: TargetId(key.0),
            number: u32::try_from(key.1).unwrap_or(0),
        };
        let held = held.get(&(entry.row.device_id, id));
        if held.is_some() && !Sent(entry.row.sent_epoch).is_known() {
            // It got there, whatever became of the note about that.
            entry.row.sent_epoch = opening.row.epoch;
            entry.mark_dirty();
        }
        let event = match held {
            Some(state) if state.is_open() => Fact::Held,
            Some(_) => Fact::HeldEnded,
            None if opening.returned == Return::Same && entry.facts().is_at_work() => {
                entry.take_push_back(opening.row.epoch);
                continue;
            }
            // It may have been taken, and have ended, after these rows were backed up; asked again,
            // the device says.
            None if opening.is_ahead() && entry.facts().state == State::Sent => continue,
            None => Fact::NotHeld,
        };
        let was_sent = entry.facts().state == State::Sent;
        let changed = entry.apply(event, tx.now).changed().is_some();
        if changed && was_sent && event == Fact::NotHeld {
            // A late note of that push has nothing to say any more.
            entry.take_push_back(opening.row.epoch);
            untaken.extend(entry.facts().untaken.then_some(entry.row.device_id));
        }
        let is_held = held.is_some_and(|state| state.is_open());
        if let Some(now) = tx.time().filter(|_| is_held) {
            // Nobody may have looked at its deadline yet.
            let _ = entry.close(tx, Closing::Tick, now);
        }
        if is_held && entry.facts().stop_requested {
            let theirs: &mut Vec<_> = stops.entry(entry.row.device_id).or_default();
            theirs.push((id, entry.facts().stop_order()));
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

/// The newest order of each bundle name that was ever given for these devices, whatever became of
/// it: what is older and was never taken gives way to it, as it would have done when that order was
/// given.
async fn newest_generations(
    tx: &Tx,
    devices: &BTreeSet<Uuid>,
) -> Result<HashMap<(Uuid, String), i64>> {
    let rows: Vec<(Uuid, String, i64)> = target::Entity::find()
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
