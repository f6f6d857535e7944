//! Decides between copies of a device.

use kernex_proto::ids::{DeviceId, JournalId};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, sea_query::Expr};
use serde_json::json;

use crate::{
    domain::device::{EVERY_COPY, away::AwayReason},
    store::{
        db::{
            error::{Result, StoreError},
            new_event::Subject,
            store::OperatorStore,
            transaction::Tx,
            values::signed,
        },
        entity::{device, journal, session, stored::Stored},
        read::{device_rows::Device, devices::find_device},
        write::{
            audit::audit,
            copies::retire_others,
            device_row::update,
            replay::{Caller, remember, replayed},
        },
    },
};

impl OperatorStore {
    /// Keeps the copy that confirmed a session last. The others are refused from now on, and need
    /// keys of their own. A session that is open has to end, so that the copy that is kept opens a
    /// new one.
    ///
    /// With `allow_downgrade` the store also forgets which revision of the session protocol the
    /// device spoke, whether there is a conflict or not.
    pub async fn resolve_device(
        &self,
        caller: &Caller,
        id_or_name: &str,
        allow_downgrade: bool,
    ) -> Result<Device> {
        let db = &self.0;
        db.write(|tx| async move {
            if let Some(id) = replayed::<Stored<DeviceId>>(&tx, caller).await? {
                let row = find_device(&tx.db, caller.scope, &id.to_string()).await?;
                return db.whole(&tx.db, row).await;
            }
            let mut row = find_device(&tx.db, caller.scope, id_or_name).await?;
            if !row.conflicted && !allow_downgrade {
                return Err(StoreError::NotConflicted(row.name));
            }
            if allow_downgrade {
                row.protocol_revision = 0;
            }
            let decided = row.conflicted;
            if decided {
                keep_last(&tx, &mut row).await?;
                row.away_since = Some(tx.now.0);
                row.away_reason = AwayReason::Resolved.as_str().to_owned();
                row.away_detail = format!("by {}", caller.name);
            }
            row.revision += 1;
            update(&tx, row.clone()).await?;
            if decided {
                session::Entity::delete_by_id(row.id).exec(&tx.db).await?;
                let detail = caller.made(json!({ "name": row.name }));
                tx.event("device.resolved", Subject::Device(row.id.0), detail);
            }
            remember(&tx, caller, &row.id).await?;
            let detail = json!({
                "journal": row.journal_id,
                "epoch": row.confirmed_epoch,
                "allow_downgrade": allow_downgrade,
            });
            audit(&tx, caller, row.id, detail).await?;
            db.whole(&tx.db, row).await
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
    refuse_other_copies(tx, row.id, kept).await?;
    row.conflicted = false;
    row.conflict = String::new();
    row.journal_id = kept.map(|(journal, _)| journal);
    row.confirmed_epoch = kept.map_or(0, |(_, epoch)| epoch);
    Ok(())
}

/// Records which copies are refused: those of other journals, and those of the kept journal that
/// confirmed less than `kept`. When no copy ever confirmed a session, the next one that comes is
/// kept.
async fn refuse_other_copies(
    tx: &Tx,
    device: Stored<DeviceId>,
    kept: Option<(Stored<JournalId>, i64)>,
) -> Result<()> {
    // Copies of a journal number different outcomes alike, so the copy that is kept has to send all
    // its outcomes again.
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
    retire_others(tx, device.0, journal.0).await
}
