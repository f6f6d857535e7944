//! Tokens: who may operate, which devices get in. Secrets are stored as hashes only.

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
        let operators = Table::create()
            .table("operator_tokens")
            .col(uuid("id").primary_key())
            .col(text("name"))
            .col(text("role"))
            .col(text_uniq("hash"))
            .col(text("created_by"))
            .col(big_integer("created_at"))
            .col(big_integer("expires_at"))
            .col(big_integer_null("revoked_at"))
            .to_owned();
        manager.create_table(operators).await?;
        let enrollments = Table::create()
            .table("enrollment_tokens")
            .col(uuid("id").primary_key())
            .col(text("secret_hash"))
            .col(integer("uses_total"))
            .col(integer("uses_left"))
            .col(text("labels"))
            .col(uuid_null("replaces_id"))
            .col(text_null("replaces_name"))
            .col(text("created_by"))
            .col(big_integer("created_at"))
            .col(big_integer("expires_at"))
            .col(big_integer_null("revoked_at"))
            .to_owned();
        manager.create_table(enrollments).await?;
        // Who changed what; written in the transaction of the change.
        let audit = Table::create()
            .table("audit")
            .col(uuid("id").primary_key())
            .col(big_integer("at"))
            .col(text("principal"))
            .col(text("method"))
            .col(text("subject"))
            .col(text("detail"))
            .col(uuid_null("request_id"))
            .to_owned();
        manager.create_table(audit).await?;
        manager.create_index(index("audit", ["at"])).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop_tables(manager, &["audit", "enrollment_tokens", "operator_tokens"]).await
    }
}
