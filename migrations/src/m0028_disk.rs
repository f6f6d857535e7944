//! What is wrong with the disk of an agent's state folder.

use sea_orm_migration::{prelude::*, schema::*};

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // "no space", "read-only" or "input/output error"; null while it works.
        let fault = Table::alter()
            .table("devices")
            .add_column(text_null("disk_fault"))
            .to_owned();
        manager.alter_table(fault).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let fault = Table::alter()
            .table("devices")
            .drop_column("disk_fault")
            .to_owned();
        manager.alter_table(fault).await
    }
}
