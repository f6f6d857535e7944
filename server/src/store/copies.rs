//! Copies of a device: which journals it came with, which of them are in use, and what an operator decided about the rest.
//!
//! A copied disk copies the journal too, so a journal alone does not tell copies apart; the newest epoch each copy has on
//! its disk does. While a device is conflicted every copy goes on confirming epochs, and the one that confirmed last is
//! the one that is kept.

use sea_orm::{
    ColumnTrait, EntityTrait, QueryFilter, QueryOrder,
    sea_query::{Expr, OnConflict},
};
use serde_json::json;
use uuid::Uuid;

use super::{
    Caller, Result, Store, StoreError,
    attempts::signed,
    devices::{Device, find_device, update},
    entity::{device, journal, session},
    requests::{audit, body_hash, remember, replayed},
    transaction::{Tx, insert_all},
};
use crate::domain::device::{Conflict, EVERY_COPY};

impl Store {
    /// Makes the copy that confirmed a session last the device again. The others are refused from now on: they need keys of
    /// their own. Whatever session is open has to end, so that the copy that is kept opens one that counts.
    ///
    /// With `allow_downgrade` it is also forgotten which revision of the session protocol the device spoke, whether there is
    /// a conflict or not.
    pub async fn resolve_device(
        &self,
        caller: &Caller,
        id_or_name: &str,
        allow_downgrade: bool,
    ) -> Result<Device> {
        let body = match allow_downgrade {
            false => body_hash(&id_or_name),
            true => body_hash(&(id_or_name, allow_downgrade)),
        };
        self.write(|tx| async move {
            if let Some(id) = replayed::<Uuid>(&tx, caller, body).await? {
                let row = find_device(&tx.db, &id.to_string()).await?;
                return self.whole(&tx.db, row).await;
            }
            let mut row = find_device(&tx.db, id_or_name).await?;
            if !row.conflicted && !allow_downgrade {
                return Err(StoreError::NotConflicted(row.name));
            }
            if allow_downgrade {
                row.protocol_revision = 0;
            }
            let decided = row.conflicted;
            if decided {
                keep_last(&tx, &mut row).await?;
            }
            row.revision += 1;
            update(&tx, row.clone()).await?;
            if decided {
                session::Entity::delete_by_id(row.id).exec(&tx.db).await?;
                tx.device_event("device.resolved", row.id, &row.name);
            }
            remember(&tx, caller, body, &row.id).await?;
            let detail = json!({
                "journal": row.journal_id,
                "epoch": row.confirmed_epoch,
                "allow_downgrade": allow_downgrade,
            });
            audit(&tx, caller, row.id, detail).await?;
            self.whole(&tx.db, row).await
        })
        .await
    }
}

/// Decides for the copy that confirmed a session last.
async fn keep_last(tx: &Tx, row: &mut device::Model) -> Result<()> {
    let kept = journal::Entity::find()
        .filter(journal::Column::DeviceId.eq(row.id))
        .filter(journal::Column::ConfirmedEpoch.gt(0))
        .order_by_desc(journal::Column::ConfirmedEpoch)
        .one(&tx.db)
        .await?;
    let kept = kept.map(|journal| (journal.journal_id, journal.confirmed_epoch));
    decide(tx, row.id, kept).await?;
    row.conflicted = false;
    row.conflict = String::new();
    row.journal_id = kept.map(|(journal, _)| journal);
    row.confirmed_epoch = kept.map_or(0, |(_, epoch)| epoch);
    Ok(())
}

/// A journal the device did not come with before takes over from the one in use.
pub(crate) async fn begin(tx: &Tx, row: &mut device::Model, journal: Uuid) -> Result<()> {
    add(tx, row.id, journal).await?;
    retire_others(tx, row.id, journal).await?;
    row.journal_id = Some(journal);
    // What the old journal confirmed says nothing about the new one.
    row.confirmed_epoch = 0;
    Ok(())
}

/// From now on the device is conflicted: what the copy in use has confirmed counts as that of one among several.
pub(crate) async fn conflict(tx: &Tx, row: &mut device::Model, journal: Uuid) -> Result<()> {
    doubt(tx, row, Conflict::Copies).await?;
    add(tx, row.id, journal).await
}

/// The same without a second journal that could be kept.
pub(crate) async fn doubt(tx: &Tx, row: &mut device::Model, why: Conflict) -> Result<()> {
    if row.conflicted {
        return Ok(());
    }
    if let Some(in_use) = row.journal_id {
        confirm(tx, row.id, in_use, row.confirmed_epoch).await?;
    }
    row.conflicted = true;
    row.conflict = why.to_string();
    Ok(())
}

/// A copy of a conflicted device has this epoch on its disk.
pub(crate) async fn confirm(tx: &Tx, device: Uuid, journal: Uuid, epoch: i64) -> Result<()> {
    journal::Entity::update_many()
        .col_expr(journal::Column::ConfirmedEpoch, Expr::value(epoch))
        .filter(journal::Column::DeviceId.eq(device))
        .filter(journal::Column::JournalId.eq(journal))
        .filter(journal::Column::ConfirmedEpoch.lt(epoch))
        .exec(&tx.db)
        .await?;
    Ok(())
}

/// A new key speaks for the device: whatever copies there were belonged to the old one.
pub(crate) async fn forget(tx: &Tx, row: &mut device::Model) -> Result<()> {
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

async fn add(tx: &Tx, device: Uuid, journal: Uuid) -> Result<()> {
    let new = journal::Model {
        device_id: device,
        journal_id: journal,
        first_seen: tx.now.0,
        retired_at: None,
        confirmed_epoch: 0,
        given_up_below: 0,
        // Of a journal that is new here nothing was ever recorded here.
        recorded_seq: Some(0),
    };
    let known = OnConflict::columns([journal::Column::DeviceId, journal::Column::JournalId])
        .do_nothing()
        .to_owned();
    insert_all::<journal::Entity>(&tx.db, vec![new], Some(known)).await?;
    Ok(())
}

async fn retire_others(tx: &Tx, device: Uuid, kept: Uuid) -> Result<()> {
    journal::Entity::update_many()
        .col_expr(journal::Column::RetiredAt, Expr::value(tx.now.0))
        .filter(journal::Column::DeviceId.eq(device))
        .filter(journal::Column::JournalId.ne(kept))
        .filter(journal::Column::RetiredAt.is_null())
        .exec(&tx.db)
        .await?;
    Ok(())
}

/// Writes down which copies are refused: those of other journals, and of the kept one those that know less than `kept`.
/// When no copy ever confirmed a session, whichever comes next is the one.
async fn decide(tx: &Tx, device: Uuid, kept: Option<(Uuid, i64)>) -> Result<()> {
    // Copies of one journal number different outcomes alike, so the one that is kept tells all of its own again.
    let theirs = || {
        journal::Entity::update_many()
            .col_expr(journal::Column::RecordedSeq, Expr::value(Some(0_i64)))
            .filter(journal::Column::DeviceId.eq(device))
    };
    let none = Expr::value(Option::<i64>::None);
    let Some((journal, epoch)) = kept else {
        theirs()
            .col_expr(journal::Column::RetiredAt, none)
            .exec(&tx.db)
            .await?;
        return Ok(());
    };
    theirs()
        .col_expr(journal::Column::RetiredAt, none)
        .col_expr(journal::Column::ConfirmedEpoch, Expr::value(0))
        .col_expr(journal::Column::GivenUpBelow, Expr::value(epoch))
        .filter(journal::Column::JournalId.eq(journal))
        .exec(&tx.db)
        .await?;
    theirs()
        .col_expr(journal::Column::ConfirmedEpoch, Expr::value(0))
        .col_expr(
            journal::Column::GivenUpBelow,
            Expr::value(signed(EVERY_COPY)),
        )
        .filter(journal::Column::JournalId.ne(journal))
        .exec(&tx.db)
        .await?;
    retire_others(tx, device, journal).await
}
