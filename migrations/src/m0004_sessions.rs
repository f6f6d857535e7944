//! Live sessions, one row per device, and the journals that each device has used.

use sea_orm_migration::{prelude::*, schema::*};

use crate::{drop_tables, index, key};

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let sessions = Table::create()
            .table("sessions")
            .col(uuid("device_id").primary_key())
            .col(big_integer("epoch"))
            .col(uuid("replica"))
            .col(text("token_hash"))
            .col(uuid("journal_id"))
            .col(big_integer("opened_at"))
            .col(big_integer_null("confirmed_at"))
            .foreign_key(
                ForeignKey::create()
                    .from("sessions", "device_id")
                    .to("devices", "id")
                    .on_delete(ForeignKeyAction::Cascade),
            )
            .to_owned();
        manager.create_table(sessions).await?;
        manager.create_index(index("sessions", ["replica"])).await?;
        let journals = Table::create()
            .table("journals")
            .col(uuid("device_id"))
            .col(uuid("journal_id"))
            .col(big_integer("first_seen"))
            .col(big_integer_null("retired_at"))
            .primary_key(&mut key(["device_id", "journal_id"]))
            .foreign_key(
                ForeignKey::create()
                    .from("journals", "device_id")
                    .to("devices", "id")
                    .on_delete(ForeignKeyAction::Cascade),
            )
            .to_owned();
        manager.create_table(journals).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop_tables(manager, &["journals", "sessions"]).await
    }
}
