//! Opening many sessions at once: the rows of all of them are read together, each is judged by itself, and what changed is
//! written together. A fleet that comes back costs a dozen statements a batch, however many devices that is.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use kernex_proto::{
    ids::{AttemptId, JournalId, TargetId},
    v1,
};
use sea_orm::{
    ColumnTrait, Condition, EntityTrait, Iterable, QueryFilter, QuerySelect, QueryTrait,
    sea_query::{Expr, ExprTrait as _, OnConflict, Query},
};
use uuid::Uuid;

use super::{OpenSession, OpenedSession};
use crate::{
    domain::{
        attempt::{Closing, Fact, Sent, State},
        device::{Conflict, DiskFault, Known, Return, next_epoch, recognise},
    },
    store::{
        Result, StoreError,
        attempts::{Batch, is_unresolved, signed, unsigned},
        copies,
        devices::{built_in, clean, described, not_found, update},
        dynamic::join,
        entity::{attempt, device, device_key, journal, session, target},
        transaction::{Deciding, ID_CHUNK, Tx, insert_all, padded},
    },
};

/// Stops of what devices hold.
type Stops = HashMap<Uuid, Vec<(AttemptId, v1::Stop)>>;

/// A session that opens, between rows and rules.
struct Opening<'a> {
    open: &'a OpenSession,
    before: device::Model,
    row: device::Model,
    returned: Return,
    /// Up to where the outcomes of its journal are recorded.
    recorded_seq: Option<u64>,
    /// These rows know of none yet, so they begin with what the agent says.
    begins_mark: bool,
}

impl Opening<'_> {
    fn answer(&self) -> OpenedSession {
        OpenedSession {
            epoch: unsigned(self.row.epoch),
            name: self.row.name.clone(),
            conflicted: self.row.conflicted,
            recorded_seq: self.recorded_seq.filter(|_| !self.row.conflicted),
            disk_fault: self.row.disk_fault.as_deref().and_then(DiskFault::parse),
            stops: Vec::new(),
        }
    }

    /// Whether outcomes were acknowledged to the device that are not in these rows: they are of an older backup, and what is
    /// not listed may have ended since.
    fn is_ahead(&self) -> bool {
        let acknowledged = self.open.acknowledged_seq.unwrap_or(0);
        self.recorded_seq
            .is_some_and(|recorded| recorded < acknowledged)
    }

    /// Whether its row says more than another number and another time.
    fn is_changed(&self) -> bool {
        let numbered = device::Model {
            epoch: self.row.epoch,
            last_seen: self.row.last_seen,
            ..self.before.clone()
        };
        numbered != self.row
    }

    /// Whether selectors may see it in another way.
    fn is_news(&self) -> bool {
        built_in(&self.before) != built_in(&self.row)
    }
}

/// Numbers and opens the sessions of different devices, and answers each in its place. What is refused has changed nothing, but
/// that a device somebody lies about is conflicted.
pub(in crate::store) async fn open(
    tx: &Deciding,
    opens: &[&OpenSession],
) -> Result<Vec<Result<OpenedSession>>> {
    let mut devices = speaking_devices(tx, opens).await?;
    let journals = journals(tx, opens).await?;
    let mut answers = Vec::with_capacity(opens.len());
    let mut openings = Vec::with_capacity(opens.len());
    for open in opens {
        let Some(row) = devices.remove(&open.device.0) else {
            answers.push(Err(not_found("device key", open.key)));
            continue;
        };
        let journal = journals.get(&(open.device.0, open.journal.0));
        match recognised(tx, open, row, journal).await {
            Ok(opening) => {
                answers.push(Ok(opening.answer()));
                openings.push(opening);
            }
            Err(
                error @ (StoreError::CopyGivenUp(_)
                | StoreError::EpochNotIssued { .. }
                | StoreError::ProtocolDowngraded { .. }),
            ) => answers.push(Err(error)),
            Err(error) => return Err(error),
        }
    }
    if openings.is_empty() {
        return Ok(answers);
    }
    write_sessions(tx, &openings).await?;
    write_devices(tx, &openings).await?;
    begin_marks(tx, &openings).await?;
    let mut stops = settle(tx, &openings).await?;
    for (open, answer) in opens.iter().zip(&mut answers) {
        if let (Ok(opened), Some(stops)) = (answer, stops.remove(&open.device.0)) {
            opened.stops = stops;
        }
    }
    let news = openings.iter().filter(|opening| opening.is_news());
    let news: Vec<Uuid> = news.map(|opening| opening.row.id).collect();
    if !news.is_empty() {
        join(tx, &news).await?;
    }
    tx.touch();
    Ok(answers)
}

/// Those devices whose key still speaks for them.
async fn speaking_devices(tx: &Tx, opens: &[&OpenSession]) -> Result<HashMap<Uuid, device::Model>> {
    let keys: Vec<(Uuid, String)> = device_key::Entity::find()
        .select_only()
        .columns([device_key::Column::DeviceId, device_key::Column::Digest])
        .filter(
            device_key::Column::Digest.is_in(padded(opens.iter().map(|open| open.key.to_string()))),
        )
        .filter(device_key::Column::RevokedAt.is_null())
        .into_tuple()
        .all(&tx.db)
        .await?;
    let keys: HashMap<Uuid, String> = keys.into_iter().collect();
    let speaking = opens.iter().filter(|open| {
        keys.get(&open.device.0)
            .is_some_and(|digest| *digest == open.key.to_string())
    });
    let devices = device::Entity::find()
        .filter(device::Column::Id.is_in(padded(speaking.map(|open| open.device.0))))
        .all(&tx.db)
        .await?;
    Ok(devices.into_iter().map(|row| (row.id, row)).collect())
}

async fn journals(
    tx: &Tx,
    opens: &[&OpenSession],
) -> Result<HashMap<(Uuid, Uuid), journal::Model>> {
    let rows = journal::Entity::find()
        .filter(journal::Column::DeviceId.is_in(padded(opens.iter().map(|open| open.device.0))))
        .filter(journal::Column::JournalId.is_in(padded(opens.iter().map(|open| open.journal.0))))
        .all(&tx.db)
        .await?;
    Ok(rows
        .into_iter()
        .map(|row| ((row.device_id, row.journal_id), row))
        .collect())
}

/// Tells the device from its copies and gives the session its number.
async fn recognised<'a>(
    tx: &Tx,
    open: &'a OpenSession,
    before: device::Model,
    journal: Option<&journal::Model>,
) -> Result<Opening<'a>> {
    let known = Known {
        journal: before.journal_id.map(JournalId),
        retired: journal.is_some_and(|journal| journal.retired_at.is_some()),
        given_up_below: journal.map_or(0, |journal| unsigned(journal.given_up_below)),
        issued_epoch: unsigned(before.epoch),
        confirmed_epoch: unsigned(before.confirmed_epoch),
    };
    let spoken = i64::from(open.protocol_revision);
    if spoken < before.protocol_revision {
        return Err(StoreError::ProtocolDowngraded {
            name: before.name,
            spoken: open.protocol_revision,
            before: u32::try_from(before.protocol_revision).unwrap_or(u32::MAX),
        });
    }
    let returned = recognise(&known, open.journal, open.last_epoch);
    let mut row = before.clone();
    row.protocol_revision = spoken;
    match returned {
        Return::Same => {}
        // Among several copies a new journal is one more.
        Return::Fresh if row.conflicted => copies::conflict(tx, &mut row, open.journal.0).await?,
        Return::Fresh => copies::begin(tx, &mut row, open.journal.0).await?,
        Return::Fork => copies::conflict(tx, &mut row, open.journal.0).await?,
        Return::GivenUp => return Err(StoreError::CopyGivenUp(row.name)),
        Return::NotIssued => {
            let error = StoreError::EpochNotIssued {
                name: before.name.clone(),
                told: open.last_epoch,
                issued: known.issued_epoch,
            };
            if !before.conflicted {
                let mut row = before;
                copies::doubt(tx, &mut row, Conflict::EpochNotIssued).await?;
                tx.device_event("device.conflicted", row.id, &row.name);
                update(tx, row).await?;
            }
            return Err(error);
        }
    }
    row = described(row, &open.inventory);
    row.epoch = signed(next_epoch(&known, open.last_epoch));
    row.last_seen = Some(tx.now.0);
    row.agent_version = clean(&open.agent_version);
    row.boot_id = clean(&open.boot_id);
    if row.conflicted && !before.conflicted {
        tracing::warn!(device = %open.device, journal = %open.journal, "two copies of a device were seen");
        tx.device_event("device.conflicted", row.id, &row.name);
    }
    let known_mark = match (journal, returned) {
        (Some(journal), _) => journal.recorded_seq.map(unsigned),
        // Nothing of a journal that is new here was ever recorded here.
        (None, Return::Fresh) => Some(0),
        (None, _) => None,
    };
    Ok(Opening {
        open,
        before,
        row,
        returned,
        recorded_seq: known_mark.or(open.acknowledged_seq),
        begins_mark: known_mark.is_none() && open.acknowledged_seq.is_some(),
    })
}

async fn write_sessions(tx: &Tx, openings: &[Opening<'_>]) -> Result<()> {
    let sessions = openings.iter().map(|opening| session::Model {
        device_id: opening.row.id,
        epoch: opening.row.epoch,
        replica: opening.open.replica,
        token_hash: opening.open.token_hash.to_string(),
        journal_id: opening.open.journal.0,
        opened_at: tx.now.0,
        confirmed_at: None,
    });
    let newer = OnConflict::column(session::Column::DeviceId)
        .update_columns([
            session::Column::Epoch,
            session::Column::Replica,
            session::Column::TokenHash,
            session::Column::JournalId,
            session::Column::OpenedAt,
            session::Column::ConfirmedAt,
        ])
        .to_owned();
    insert_all::<session::Entity>(&tx.db, sessions.collect(), Some(newer)).await?;
    Ok(())
}

/// A device that left and came back has a new number only, which its session's row has as well; any other is written whole.
async fn write_devices(tx: &Tx, openings: &[Opening<'_>]) -> Result<()> {
    let (changed, numbered): (Vec<_>, Vec<_>) =
        openings.iter().partition(|opening| opening.is_changed());
    if !numbered.is_empty() {
        let ids = padded(numbered.iter().map(|opening| opening.row.id));
        let update = device::Entity::update_many()
            .col_expr(device::Column::Epoch, number_of_session())
            .col_expr(device::Column::LastSeen, Expr::value(tx.now.0))
            .filter(device::Column::Id.is_in(ids));
        tx.db.later(update.as_query()).await?;
    }
    let changed: Vec<_> = changed.iter().map(|opening| opening.row.clone()).collect();
    let is_id = |column: &device::Column| matches!(column, device::Column::Id);
    let whole = OnConflict::column(device::Column::Id)
        .update_columns(device::Column::iter().filter(|column| !is_id(column)))
        .to_owned();
    insert_all::<device::Entity>(&tx.db, changed, Some(whole)).await?;
    Ok(())
}

/// Notes up to where outcomes are recorded, for journals that nobody knew that of: once for each, after an upgrade.
async fn begin_marks(tx: &Tx, openings: &[Opening<'_>]) -> Result<()> {
    for opening in openings.iter().filter(|opening| opening.begins_mark) {
        let Some(recorded) = opening.recorded_seq else {
            continue;
        };
        let begun = journal::Entity::update_many()
            .col_expr(journal::Column::RecordedSeq, Expr::value(signed(recorded)))
            .filter(journal::Column::DeviceId.eq(opening.row.id))
            .filter(journal::Column::JournalId.eq(opening.open.journal.0))
            .filter(journal::Column::RecordedSeq.is_null());
        tx.db.later(begun.as_query()).await?;
    }
    Ok(())
}

/// In a statement about devices: the number of each one's session.
pub(super) fn number_of_session() -> Expr {
    let number = Query::select()
        .column(session::Column::Epoch)
        .from(session::Entity)
        .and_where(
            Expr::col((session::Entity, session::Column::DeviceId))
                .equals((device::Entity, device::Column::Id)),
        )
        .to_owned();
    Expr::SubQuery(None, Box::new(number.into()))
}

/// Compares what the server believes the devices hold with what they say they hold. A copy's list says nothing about what
/// its device does.
///
/// A journal that is still the same has not lost what it accepted: when it does not list such an attempt, that has ended and was
/// acknowledged, and these rows are of an older backup. It counts as never pushed; the device, asked again, answers from its
/// journal and runs nothing.
///
/// What was pushed, not accepted, and is not listed never got there. It gives way to newer orders and stops like what was never
/// pushed, here for those that have come already.
///
/// Gives the stops of what they hold, by device: who comes back late is told before it goes on.
async fn settle(tx: &Deciding, openings: &[Opening<'_>]) -> Result<Stops> {
    let openings: BTreeMap<Uuid, &Opening<'_>> = openings
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
    // What an older session was given and nobody noted is known here; nothing more is pushed into it.
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
            // It may have been taken, and have ended, after these rows were backed up; asked again, the device says.
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

/// The newest order of each bundle name that was ever given for these devices, whatever became of it: what is older and was
/// never taken gives way to it, as it would have done when that order was given.
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
