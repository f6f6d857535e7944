//! Configurations of agents, for one device or by selector, and the merged result of each device.

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
        let configurations = Table::create()
            .table("configurations")
            .col(uuid("id").primary_key())
            .col(text("name"))
            // One of the two.
            .col(uuid_null("device_id"))
            .col(text_null("selector"))
            // AgentSettings and values, as one Configure of the contract.
            .col(binary("configure"))
            .col(big_integer("revision"))
            .col(big_integer("updated_at"))
            .foreign_key(
                ForeignKey::create()
                    .from("configurations", "device_id")
                    .to("devices", "id")
                    .on_delete(ForeignKeyAction::Cascade),
            )
            .to_owned();
        manager.create_table(configurations).await?;
        let mut unique = index("configurations", ["name"]);
        manager.create_index(unique.unique().to_owned()).await?;
        let devices = Table::create()
            .table("device_configurations")
            .col(uuid("device_id").primary_key())
            .col(big_integer("revision"))
            // The merged configuration, as it is pushed.
            .col(binary("configure"))
            // Where the newest revision was pushed; -1 when nowhere yet.
            .col(big_integer("sent_epoch"))
            .col(big_integer("active_revision"))
            .col(big_integer("refused_revision"))
            .col(text("refusal"))
            .col(big_integer_null("answered_at"))
            .foreign_key(
                ForeignKey::create()
                    .from("device_configurations", "device_id")
                    .to("devices", "id")
                    .on_delete(ForeignKeyAction::Cascade),
            )
            .to_owned();
        manager.create_table(devices).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop_tables(manager, &["device_configurations", "configurations"]).await
    }
}
