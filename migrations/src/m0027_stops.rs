//! What became of a stop before the outcome.
//!
//! `attempts.stopped`: the agent has said that what the stop was to end runs no more.
//! `attempts.stop_going_back`: the stop is to end going back as well.

use sea_orm_migration::{prelude::*, schema::*};

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

const COLUMNS: [&str; 2] = ["stopped", "stop_going_back"];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for column in COLUMNS {
            // SQLite takes one change at a time.
            let change = Table::alter()
                .table("attempts")
                .add_column(boolean(column).default(false))
                .to_owned();
            manager.alter_table(change).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for column in COLUMNS {
            let change = Table::alter()
                .table("attempts")
                .drop_column(column)
                .to_owned();
            manager.alter_table(change).await?;
        }
        Ok(())
    }
}
