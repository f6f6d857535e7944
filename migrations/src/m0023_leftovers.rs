//! What agents were to remove and could not, beside their latest heartbeats.

use sea_orm_migration::{prelude::*, schema::*};

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // JSON with their count and some of them; none when nothing is left.
        let leftovers = Table::alter()
            .table("heartbeats")
            .add_column(text_null("leftovers"))
            .to_owned();
        manager.alter_table(leftovers).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let leftovers = Table::alter()
            .table("heartbeats")
            .drop_column("leftovers")
            .to_owned();
        manager.alter_table(leftovers).await
    }
}
