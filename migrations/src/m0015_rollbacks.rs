//! What a device ran before and after each attempt, and deployments that roll another one back.

use sea_orm_migration::{prelude::*, schema::*};

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

/// Columns of `attempts`: null until the outcome is known, empty when nothing ran.
const COLUMNS: [&str; 3] = [
    // What the device ran once it was over.
    "active_version",
    "active_digest",
    // What it ran before: where a rollback goes.
    "previous_digest",
];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for column in COLUMNS {
            let add = Table::alter()
                .table("attempts")
                .add_column(text_null(column))
                .to_owned();
            manager.alter_table(add).await?;
        }
        // The deployment whose targets go back to what they ran before it.
        let add = Table::alter()
            .table("deployments")
            .add_column(uuid_null("rolls_back"))
            .to_owned();
        manager.alter_table(add).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let drop = Table::alter()
            .table("deployments")
            .drop_column("rolls_back")
            .to_owned();
        manager.alter_table(drop).await?;
        for column in COLUMNS {
            let drop = Table::alter()
                .table("attempts")
                .drop_column(column)
                .to_owned();
            manager.alter_table(drop).await?;
        }
        Ok(())
    }
}
