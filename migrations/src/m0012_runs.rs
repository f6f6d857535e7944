//! Attempts whose `hooks.pre` asked for time, and the run they are granted next.

use sea_orm_migration::{prelude::*, schema::*};

use crate::{drop_tables, key};

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let runs = Table::create()
            .table("runs")
            .col(uuid("target_id"))
            .col(integer("number"))
            // The run to grant, or the one that was granted last.
            .col(integer("run"))
            // When to grant it; none once it was pushed.
            .col(big_integer_null("due_at"))
            .primary_key(&mut key(["target_id", "number"]))
            .foreign_key(
                ForeignKey::create()
                    .from("runs", "target_id")
                    .to("targets", "id")
                    .on_delete(ForeignKeyAction::Cascade),
            )
            .to_owned();
        manager.create_table(runs).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop_tables(manager, &["runs"]).await
    }
}
