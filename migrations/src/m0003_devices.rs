//! Devices, the keys that speak for them, and their labels.

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
        let devices = Table::create()
            .table("devices")
            .col(uuid("id").primary_key())
            .col(text_uniq("name"))
            .col(big_integer("created_at"))
            .col(big_integer("revision"))
            .col(big_integer("epoch"))
            .col(big_integer("confirmed_epoch"))
            .col(big_integer("generation"))
            .col(boolean("conflicted"))
            .col(uuid_null("journal_id"))
            .col(big_integer_null("last_seen"))
            .col(text("agent_version"))
            .col(text("boot_id"))
            .col(text("os"))
            .col(text("arch"))
            .col(text("hostname"))
            .col(text("kernel"))
            .col(big_integer("cpu_count"))
            .col(big_integer("memory_bytes"))
            .to_owned();
        manager.create_table(devices).await?;
        // Revoked keys outlive their device, so that they can never enrol again.
        let keys = Table::create()
            .table("device_keys")
            .col(text("digest").primary_key())
            .col(uuid("device_id"))
            .col(binary("der"))
            .col(big_integer("created_at"))
            .col(big_integer_null("revoked_at"))
            .to_owned();
        manager.create_table(keys).await?;
        manager
            .create_index(index("device_keys", ["device_id"]))
            .await?;
        let labels = Table::create()
            .table("device_labels")
            .col(uuid("device_id"))
            .col(text("key"))
            .col(text("value"))
            .primary_key(&mut key(["device_id", "key"]))
            .foreign_key(
                ForeignKey::create()
                    .from("device_labels", "device_id")
                    .to("devices", "id")
                    .on_delete(ForeignKeyAction::Cascade),
            )
            .to_owned();
        manager.create_table(labels).await?;
        manager
            .create_index(index("device_labels", ["key", "value"]))
            .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop_tables(manager, &["device_labels", "device_keys", "devices"]).await
    }
}
