//! Bundles with their signatures, and what each device is known to run.

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
        let bundles = Table::create()
            .table("bundles")
            .col(uuid("id").primary_key())
            .col(text("name"))
            .col(text("version"))
            .col(text("digest"))
            .col(big_integer("size"))
            .col(text("format"))
            .col(text("manifest_json"))
            .col(text("created_by"))
            .col(big_integer("created_at"))
            .to_owned();
        manager.create_table(bundles).await?;
        let mut unique = index("bundles", ["name", "version"]);
        manager.create_index(unique.unique().to_owned()).await?;
        manager.create_index(index("bundles", ["digest"])).await?;
        let signatures = Table::create()
            .table("signatures")
            .col(uuid("bundle_id"))
            .col(text("key_id"))
            .col(text("algorithm"))
            .col(binary("signature"))
            .primary_key(&mut key(["bundle_id", "key_id"]))
            .foreign_key(
                ForeignKey::create()
                    .from("signatures", "bundle_id")
                    .to("bundles", "id")
                    .on_delete(ForeignKeyAction::Cascade),
            )
            .to_owned();
        manager.create_table(signatures).await?;
        // Written with each outcome; keeps a bundle from collection.
        let releases = Table::create()
            .table("device_releases")
            .col(uuid("device_id"))
            .col(text("name"))
            .col(text("version"))
            .col(text("digest"))
            .col(text("previous_digest"))
            .col(big_integer("since"))
            .primary_key(&mut key(["device_id", "name"]))
            .foreign_key(
                ForeignKey::create()
                    .from("device_releases", "device_id")
                    .to("devices", "id")
                    .on_delete(ForeignKeyAction::Cascade),
            )
            .to_owned();
        manager.create_table(releases).await?;
        manager
            .create_index(index("device_releases", ["digest"]))
            .await?;
        manager
            .create_index(index("device_releases", ["previous_digest"]))
            .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop_tables(manager, &["device_releases", "signatures", "bundles"]).await
    }
}
