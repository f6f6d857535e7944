//! Who used a token and from where; the same of each entry of the audit.
//!
//! `operator_tokens.last_used_at`, `last_used_from`: when and from which address. `audit.token_id`,
//! `address`: the operator token and the address of who called; null where an earlier version wrote
//! it, and for the server itself. `audit.result`: `ok`, `denied` or `unauthenticated`.
//! `audit.count`: how many alike a row stands for.

use sea_orm_migration::{prelude::*, schema::*};

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

const TOKENS: &str = "operator_tokens";
const AUDIT: &str = "audit";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for (table, column) in [
            (TOKENS, big_integer_null("last_used_at").take()),
            (TOKENS, text_null("last_used_from").take()),
            (AUDIT, uuid_null("token_id").take()),
            (AUDIT, text_null("address").take()),
            (AUDIT, text("result").default("ok").take()),
            (AUDIT, big_integer("count").default(1).take()),
        ] {
            // SQLite takes one change at a time.
            let change = Table::alter().table(table).add_column(column).to_owned();
            manager.alter_table(change).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for (table, column) in [
            (AUDIT, "count"),
            (AUDIT, "result"),
            (AUDIT, "address"),
            (AUDIT, "token_id"),
            (TOKENS, "last_used_from"),
            (TOKENS, "last_used_at"),
        ] {
            let change = Table::alter().table(table).drop_column(column).to_owned();
            manager.alter_table(change).await?;
        }
        Ok(())
    }
}
