//! Where devices run something else than their last outcomes said.

use sea_orm_migration::{prelude::*, schema::*};

use crate::{drop_tables, key};

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let drifts = Table::create()
            .table("device_drifts")
            .col(uuid("device_id"))
            .col(text("name"))
            // What the last outcome said; no digest when none said that anything runs.
            .col(text("expected_version"))
            .col(text_null("expected_digest"))
            // What the device says; no digest when it runs nothing, an empty one when it cannot
            // tell.
            .col(text("actual_version"))
            .col(text_null("actual_digest"))
            .col(big_integer("since"))
            .primary_key(&mut key(["device_id", "name"]))
            .foreign_key(
                ForeignKey::create()
                    .from("device_drifts", "device_id")
                    .to("devices", "id")
                    .on_delete(ForeignKeyAction::Cascade),
            )
            .to_owned();
        manager.create_table(drifts).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop_tables(manager, &["device_drifts"]).await
    }
}
