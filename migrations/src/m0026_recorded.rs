//! The resume mark of a journal: its outcomes up to this number are in the database. A restored
//! database lacks those above.
//!
//! `journals.recorded_seq`: every outcome of the journal numbered up to this has been recorded
//! here; null until the first session of an agent that says what was acknowledged to it.

use sea_orm_migration::{prelude::*, schema::*};

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let change = Table::alter()
            .table("journals")
            .add_column(big_integer_null("recorded_seq"))
            .to_owned();
        manager.alter_table(change).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let change = Table::alter()
            .table("journals")
            .drop_column("recorded_seq")
            .to_owned();
        manager.alter_table(change).await
    }
}
