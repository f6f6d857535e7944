//! Reports about attempts this database does not know, kept for an operator to look at.

use sea_orm_migration::{prelude::*, schema::*};

use crate::{drop_tables, index};

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let unknown = Table::create()
            .table("unknown_reports")
            .col(uuid("id").primary_key())
            .col(uuid("device_id"))
            .col(uuid("target_id"))
            .col(integer("number"))
            .col(text("kind"))
            .col(binary("report"))
            .col(big_integer("at"))
            .to_owned();
        manager.create_table(unknown).await?;
        let mut once = index(
            "unknown_reports",
            ["device_id", "target_id", "number", "kind"],
        );
        manager.create_index(once.unique().to_owned()).await?;
        manager.create_index(index("unknown_reports", ["at"])).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop_tables(manager, &["unknown_reports"]).await
    }
}
