//! Reports about unknown attempts are bounded: which bundle an outcome is about, so that the newest
//! of each name stays.

use sea_orm_migration::{prelude::*, schema::*};

use crate::index;

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

const TABLE: &str = "unknown_reports";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let name = Table::alter()
            .table(TABLE)
            .add_column(text_null("bundle_name"))
            .to_owned();
        manager.alter_table(name).await?;
        manager
            .create_index(index(TABLE, ["device_id", "id"]))
            .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let index = Index::drop()
            .name("ix_unknown_reports_device_id_id")
            .table(TABLE)
            .to_owned();
        manager.drop_index(index).await?;
        let name = Table::alter()
            .table(TABLE)
            .drop_column("bundle_name")
            .to_owned();
        manager.alter_table(name).await
    }
}
