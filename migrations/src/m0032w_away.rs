//! Since when a device is away, and why.
//!
//! `devices.away_since`, `away_reason`, `away_detail`: written with the end of its session, emptied
//! with the begin of the next one. No reason means that an earlier version ended the session, or
//! that its replica died.

use sea_orm_migration::{prelude::*, schema::*};

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

const TABLE: &str = "devices";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for column in [
            big_integer_null("away_since").take(),
            text("away_reason").default("").take(),
            text("away_detail").default("").take(),
        ] {
            // SQLite takes one change at a time.
            let change = Table::alter().table(TABLE).add_column(column).to_owned();
            manager.alter_table(change).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for column in ["away_detail", "away_reason", "away_since"] {
            let change = Table::alter().table(TABLE).drop_column(column).to_owned();
            manager.alter_table(change).await?;
        }
        Ok(())
    }
}
