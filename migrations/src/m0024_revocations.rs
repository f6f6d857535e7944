//! What stopped being valid: why a key does not speak any more, and in which order that happened,
//! so that replicas can ask what is new.
//!
//! `cluster.revocations`: how many transactions revoked something. `device_keys.revoked_because`:
//! `deleted` or `replaced`; `device_name`: its device's name then; `revoked_epoch`: sessions up to
//! this number spoke with it; none of the three where an earlier version revoked it.
//! `device_keys.revocation`, `operator_tokens.revocation`: number of the transaction that revoked
//! it.

use sea_orm_migration::{prelude::*, schema::*};

use crate::index;

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

const KEYS: &str = "device_keys";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let count = big_integer("revocations").default(0).take();
        add(manager, "cluster", count).await?;
        for column in [
            text_null("revoked_because").take(),
            text_null("device_name").take(),
            big_integer_null("revoked_epoch").take(),
            big_integer_null("revocation").take(),
        ] {
            add(manager, KEYS, column).await?;
        }
        let number = big_integer_null("revocation").take();
        add(manager, "operator_tokens", number).await?;
        // Few of a fleet's keys are revoked, and each report is looked up among those.
        manager
            .create_index(revoked("ix_device_keys_revoked", "device_id", "revoked_at"))
            .await?;
        manager
            .create_index(revoked(
                "ix_device_keys_revocation",
                "revocation",
                "revocation",
            ))
            .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for name in ["ix_device_keys_revocation", "ix_device_keys_revoked"] {
            let index = Index::drop().name(name).table(KEYS).to_owned();
            manager.drop_index(index).await?;
        }
        drop(manager, "operator_tokens", "revocation").await?;
        for column in [
            "revocation",
            "revoked_epoch",
            "device_name",
            "revoked_because",
        ] {
            drop(manager, KEYS, column).await?;
        }
        drop(manager, "cluster", "revocations").await
    }
}

/// An index of those rows only where `given` is there.
fn revoked(name: &'static str, column: &'static str, given: &'static str) -> IndexCreateStatement {
    let mut index = index(KEYS, [column]);
    index
        .name(name)
        .and_where(Expr::col(given).is_not_null())
        .take()
}

/// SQLite takes one change at a time.
async fn add(
    manager: &SchemaManager<'_>,
    table: &'static str,
    column: ColumnDef,
) -> Result<(), DbErr> {
    let change = Table::alter().table(table).add_column(column).to_owned();
    manager.alter_table(change).await
}

async fn drop(
    manager: &SchemaManager<'_>,
    table: &'static str,
    column: &'static str,
) -> Result<(), DbErr> {
    let change = Table::alter().table(table).drop_column(column).to_owned();
    manager.alter_table(change).await
}
