//! Opens many sessions at once. The rows of all of them are read together, each session is judged
//! by itself, and what changed is written together. A fleet that comes back costs a dozen
//! statements a batch, however many devices that are.

use std::collections::HashMap;

use kernex_proto::ids::{DeviceId, JournalId};
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, Iterable, QueryFilter, QuerySelect, QueryTrait,
    sea_query::{Expr, OnConflict},
};

use crate::{
    domain::device::{Conflict, KnownJournals, ReturningJournal, next_epoch, recognise},
    store::{
        db::{
            error::{Result, StoreError, not_found},
            sizes::{insert_all, padded},
            transaction::{Deciding, Tx},
            values::{clean, signed, unsigned},
        },
        entity::{device, device_key, journal, session, stored::Stored},
        read::sessions::session_epoch,
        write::{
            copies,
            device_row::{described, update},
            join::join_deployments,
            reconcile_attempts::reconcile_attempts,
            session_opening::{OpenSession, OpenedSession, SessionOpening},
        },
    },
};

/// Opens the sessions of different devices under new numbers, and answers each in its place. A
/// session that is refused has changed nothing, but its device may have become conflicted.
pub(crate) async fn open_sessions(
    tx: &Deciding,
    opens: &[&OpenSession],
) -> Result<Vec<Result<OpenedSession>>> {
    let mut devices = speaking_devices(tx, opens).await?;
    let journals = journals(tx, opens).await?;
    let mut answers = Vec::with_capacity(opens.len());
    let mut openings = Vec::with_capacity(opens.len());
    for open in opens {
        let Some(row) = devices.remove(&Stored(open.device)) else {
            answers.push(Err(not_found("device key", open.key)));
            continue;
        };
        let journal = journals.get(&(Stored(open.device), Stored(open.journal)));
        match recognise_device(tx, open, row, journal).await {
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
    let mut stops = reconcile_attempts(tx, &openings).await?;
    for (open, answer) in opens.iter().zip(&mut answers) {
        if let (Ok(opened), Some(stops)) = (answer, stops.remove(&Stored(open.device))) {
            opened.stops = stops;
        }
    }
    let news = openings.iter().filter(|opening| opening.is_news());
    let news: Vec<DeviceId> = news.map(|opening| opening.open.device).collect();
    if !news.is_empty() {
        join_deployments(tx, &news).await?;
    }
    tx.touch();
    Ok(answers)
}

/// The devices whose key still speaks for them.
async fn speaking_devices(
    tx: &Tx,
    opens: &[&OpenSession],
) -> Result<HashMap<Stored<DeviceId>, device::Model>> {
    let keys: Vec<(Stored<DeviceId>, String)> = device_key::Entity::find()
        .select_only()
        .columns([device_key::Column::DeviceId, device_key::Column::Digest])
        .filter(
            device_key::Column::Digest.is_in(padded(opens.iter().map(|open| open.key.to_string()))),
        )
        .filter(device_key::Column::RevokedAt.is_null())
        .into_tuple()
        .all(&tx.db)
        .await?;
    let keys: HashMap<Stored<DeviceId>, String> = keys.into_iter().collect();
    let speaking = opens.iter().filter(|open| {
        keys.get(&Stored(open.device))
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
) -> Result<HashMap<(Stored<DeviceId>, Stored<JournalId>), journal::Model>> {
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

/// Tells the device from its copies, and gives the session its number.
async fn recognise_device<'a>(
    tx: &Tx,
    open: &'a OpenSession,
    before: device::Model,
    journal: Option<&journal::Model>,
) -> Result<SessionOpening<'a>> {
    let known = KnownJournals {
        journal: before.journal_id.map(|id| id.0),
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
        ReturningJournal::Same => {}
        // A journal that is new to a conflicted device is one more copy.
        ReturningJournal::Fresh if row.conflicted => {
            copies::add_copy(tx, &mut row, open.journal).await?
        }
        ReturningJournal::Fresh => copies::begin_journal(tx, &mut row, open.journal).await?,
        ReturningJournal::Fork => copies::add_copy(tx, &mut row, open.journal).await?,
        ReturningJournal::GivenUp => return Err(StoreError::CopyGivenUp(row.name)),
        ReturningJournal::NotIssued => {
            let error = StoreError::EpochNotIssued {
                name: before.name.clone(),
                told: open.last_epoch,
                issued: known.issued_epoch,
            };
            if !before.conflicted {
                let mut row = before;
                copies::mark_conflicted(tx, &mut row, Conflict::EpochNotIssued).await?;
                tx.device_event("device.conflicted", row.id.0, &row.name);
                update(tx, row).await?;
            }
            return Err(error);
        }
    }
    row = described(row, &open.inventory);
    row.epoch = signed(next_epoch(&known, open.last_epoch));
    row.last_seen = Some(tx.now.0);
    row.away_since = None;
    row.away_reason.clear();
    row.away_detail.clear();
    row.agent_version = clean(&open.agent_version);
    row.boot_id = clean(&open.boot_id);
    if row.conflicted && !before.conflicted {
        tracing::warn!(device = %open.device, journal = %open.journal, "two copies of a device were seen");
        tx.device_event("device.conflicted", row.id.0, &row.name);
    }
    let known_mark = match (journal, returned) {
        (Some(journal), _) => journal.recorded_seq.map(unsigned),
        // Nothing of a new journal was recorded before.
        (None, ReturningJournal::Fresh) => Some(0),
        (None, _) => None,
    };
    Ok(SessionOpening {
        open,
        before,
        row,
        returned,
        recorded_seq: known_mark.or(open.acknowledged_seq),
        begins_mark: known_mark.is_none() && open.acknowledged_seq.is_some(),
    })
}

async fn write_sessions(tx: &Tx, openings: &[SessionOpening<'_>]) -> Result<()> {
    let sessions = openings.iter().map(|opening| session::Model {
        device_id: opening.row.id,
        epoch: opening.row.epoch,
        replica: Stored(opening.open.replica),
        token_hash: opening.open.token_hash.to_string(),
        journal_id: Stored(opening.open.journal),
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

/// Most devices come back with nothing but a new number, which the row of the session has as well.
/// Only the other rows are written whole.
async fn write_devices(tx: &Tx, openings: &[SessionOpening<'_>]) -> Result<()> {
    let (changed, numbered): (Vec<_>, Vec<_>) =
        openings.iter().partition(|opening| opening.is_changed());
    if !numbered.is_empty() {
        let ids = padded(numbered.iter().map(|opening| opening.row.id));
        let update = device::Entity::update_many()
            .col_expr(device::Column::Epoch, session_epoch())
            .col_expr(device::Column::LastSeen, Expr::value(tx.now.0))
            .col_expr(device::Column::AwaySince, Expr::value(None::<i64>))
            .col_expr(device::Column::AwayReason, Expr::value(""))
            .col_expr(device::Column::AwayDetail, Expr::value(""))
            .filter(device::Column::Id.is_in(ids));
        tx.db.execute(update.as_query()).await?;
    }
    let changed: Vec<_> = changed.iter().map(|opening| opening.row.clone()).collect();
    let is_id = |column: &device::Column| matches!(column, device::Column::Id);
    let whole = OnConflict::column(device::Column::Id)
        .update_columns(device::Column::iter().filter(|column| !is_id(column)))
        .to_owned();
    insert_all::<device::Entity>(&tx.db, changed, Some(whole)).await?;
    Ok(())
}

/// Notes up to where outcomes are recorded, for journals without a mark. After an upgrade that
/// happens once for each journal.
async fn begin_marks(tx: &Tx, openings: &[SessionOpening<'_>]) -> Result<()> {
    for opening in openings.iter().filter(|opening| opening.begins_mark) {
        let Some(recorded) = opening.recorded_seq else {
            continue;
        };
        let begun = journal::Entity::update_many()
            .col_expr(journal::Column::RecordedSeq, Expr::value(signed(recorded)))
            .filter(journal::Column::DeviceId.eq(opening.row.id))
            .filter(journal::Column::JournalId.eq(opening.open.journal.0))
            .filter(journal::Column::RecordedSeq.is_null());
        tx.db.execute(begun.as_query()).await?;
    }
    Ok(())
}
