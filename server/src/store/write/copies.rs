//! Copies of a device: with which journals it came, which of them are in use, and what an operator
//! decided about the others.
//!
//! A copied disk has a copy of the journal, too, so a journal alone does not tell copies apart. The
//! newest epoch that each copy has on its disk does. While a device is conflicted, all its copies
//! go on confirming epochs. The one that confirmed last is the one that an operator keeps.

use kernex_proto::ids::{DeviceId, JournalId};
use sea_orm::{
    ColumnTrait, EntityTrait, QueryFilter,
    sea_query::{Expr, OnConflict},
};

use crate::{
    domain::device::Conflict,
    store::{
        db::{error::Result, sizes::insert_all, transaction::Tx},
        entity::{device, journal, stored::Stored},
    },
};

/// A journal that is new to this device takes over from the one in use.
pub(crate) async fn begin_journal(
    tx: &Tx,
    row: &mut device::Model,
    journal: JournalId,
) -> Result<()> {
    insert_journal(tx, row.id.0, journal).await?;
    retire_others(tx, row.id.0, journal).await?;
    row.journal_id = Some(Stored(journal));
    // The old journal's confirmations say nothing about the new one.
    row.confirmed_epoch = 0;
    Ok(())
}

/// Makes the device conflicted. From now on the epoch that the journal in use has confirmed is one
/// copy's among several.
pub(crate) async fn add_copy(tx: &Tx, row: &mut device::Model, journal: JournalId) -> Result<()> {
    mark_conflicted(tx, row, Conflict::Copies).await?;
    insert_journal(tx, row.id.0, journal).await
}

/// Makes the device conflicted, without a second journal that could be kept.
pub(crate) async fn mark_conflicted(tx: &Tx, row: &mut device::Model, why: Conflict) -> Result<()> {
    if row.conflicted {
        return Ok(());
    }
    if let Some(in_use) = row.journal_id {
        confirm_copy(tx, row.id.0, in_use.0, row.confirmed_epoch).await?;
    }
    row.conflicted = true;
    row.conflict = why.to_string();
    Ok(())
}

/// Notes that a copy of a conflicted device has this epoch on its disk.
pub(crate) async fn confirm_copy(
    tx: &Tx,
    device: DeviceId,
    journal: JournalId,
    epoch: i64,
) -> Result<()> {
    journal::Entity::update_many()
        .col_expr(journal::Column::ConfirmedEpoch, Expr::value(epoch))
        .filter(journal::Column::DeviceId.eq(device.0))
        .filter(journal::Column::JournalId.eq(journal.0))
        .filter(journal::Column::ConfirmedEpoch.lt(epoch))
        .exec(&tx.db)
        .await?;
    Ok(())
}

/// Forgets all copies, because a new key speaks for the device: they belonged to the old key.
pub(crate) async fn forget_copies(tx: &Tx, row: &mut device::Model) -> Result<()> {
    journal::Entity::delete_many()
        .filter(journal::Column::DeviceId.eq(row.id))
        .exec(&tx.db)
        .await?;
    row.conflicted = false;
    row.conflict = String::new();
    row.protocol_revision = 0;
    row.journal_id = None;
    row.confirmed_epoch = 0;
    Ok(())
}

async fn insert_journal(tx: &Tx, device: DeviceId, journal: JournalId) -> Result<()> {
    let new = journal::Model {
        device_id: Stored(device),
        journal_id: Stored(journal),
        first_seen: tx.now.0,
        retired_at: None,
        confirmed_epoch: 0,
        given_up_below: 0,
        // Nothing of a new journal was recorded before.
        recorded_seq: Some(0),
    };
    let known = OnConflict::columns([journal::Column::DeviceId, journal::Column::JournalId])
        .do_nothing()
        .to_owned();
    insert_all::<journal::Entity>(&tx.db, vec![new], Some(known)).await?;
    Ok(())
}

pub(crate) async fn retire_others(tx: &Tx, device: DeviceId, kept: JournalId) -> Result<()> {
    journal::Entity::update_many()
        .col_expr(journal::Column::RetiredAt, Expr::value(tx.now.0))
        .filter(journal::Column::DeviceId.eq(device.0))
        .filter(journal::Column::JournalId.ne(kept.0))
        .filter(journal::Column::RetiredAt.is_null())
        .exec(&tx.db)
        .await?;
    Ok(())
}
