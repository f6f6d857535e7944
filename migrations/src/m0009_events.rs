//! What happened, numbered in commit order.

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
        let events = Table::create()
            .table("events")
            .col(big_integer("cursor").primary_key())
            .col(big_integer("at"))
            .col(text("kind"))
            .col(uuid_null("device_id"))
            .col(uuid_null("deployment_id"))
            .col(text("detail"))
            .to_owned();
        manager.create_table(events).await?;
        manager.create_index(index("events", ["at"])).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop_tables(manager, &["events"]).await
    }
}
