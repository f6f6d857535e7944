//! What `hooks.pre` said when it asked for time: `runs.message`.

use sea_orm_migration::{prelude::*, schema::*};

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

const TABLE: &str = "runs";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let message = Table::alter()
            .table(TABLE)
            .add_column(text("message").default(""))
            .to_owned();
        manager.alter_table(message).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let message = Table::alter()
            .table(TABLE)
            .drop_column("message")
            .to_owned();
        manager.alter_table(message).await
    }
}
