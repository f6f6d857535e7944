//! The latest heartbeat of each device, and a sampled history.

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
        let latest = vitals(
            Table::create()
                .table("heartbeats")
                .col(uuid("device_id").primary_key()),
        )
        .col(big_integer("epoch"))
        .col(big_integer("at"))
        .col(big_integer("sampled_at"))
        .col(text("releases"))
        .foreign_key(&mut to_device("heartbeats"))
        .to_owned();
        manager.create_table(latest).await?;
        let samples = vitals(
            Table::create()
                .table("heartbeat_samples")
                .col(uuid("device_id"))
                .col(big_integer("at")),
        )
        .primary_key(&mut key(["device_id", "at"]))
        .foreign_key(&mut to_device("heartbeat_samples"))
        .to_owned();
        manager.create_table(samples).await?;
        manager
            .create_index(index("heartbeat_samples", ["at"]))
            .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop_tables(manager, &["heartbeat_samples", "heartbeats"]).await
    }
}

fn vitals(table: &mut TableCreateStatement) -> &mut TableCreateStatement {
    table
        .col(double("cpu_percent"))
        .col(big_integer("memory_used_mb"))
        .col(big_integer("memory_total_mb"))
        .col(big_integer("disk_free_bytes"))
        .col(big_integer("disk_total_bytes"))
        .col(big_integer("uptime_seconds"))
}

fn to_device(table: &'static str) -> ForeignKeyCreateStatement {
    ForeignKey::create()
        .from(table, "device_id")
        .to("devices", "id")
        .on_delete(ForeignKeyAction::Cascade)
        .to_owned()
}
