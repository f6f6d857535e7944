//! What an order said, so that it can be read back.
//!
//! `deployments.selector`: the selector of the order, empty when it had none, and in rows of
//! earlier versions. `named_devices`: how many devices it named one by one. `message`: what its
//! maker noted. `created_from`, `token_id`: the address and the operator token it came from; null
//! for the server itself, and in rows of earlier versions.

use sea_orm_migration::{prelude::*, schema::*};

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

const TABLE: &str = "deployments";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for column in [
            text("selector").default("").take(),
            big_integer("named_devices").default(0).take(),
            text("message").default("").take(),
            text_null("created_from").take(),
            uuid_null("token_id").take(),
        ] {
            // SQLite takes one change at a time.
            let change = Table::alter().table(TABLE).add_column(column).to_owned();
            manager.alter_table(change).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for column in [
            "token_id",
            "created_from",
            "message",
            "named_devices",
            "selector",
        ] {
            let change = Table::alter().table(TABLE).drop_column(column).to_owned();
            manager.alter_table(change).await?;
        }
        Ok(())
    }
}
