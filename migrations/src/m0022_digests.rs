//! The index of targets by digest gets the device as well. With the digest alone, an order for one
//! device read an entry of every device that ever got the bundle.

use sea_orm_migration::prelude::*;

use crate::index;

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        replace(
            manager,
            index("targets", ["digest", "device_id"]),
            ["digest"],
        )
        .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let devices = ["digest", "device_id"];
        replace(manager, index("targets", ["digest"]), devices).await
    }
}

/// Makes one index and drops another one.
async fn replace<const N: usize>(
    manager: &SchemaManager<'_>,
    new: IndexCreateStatement,
    old: [&'static str; N],
) -> Result<(), DbErr> {
    manager.create_index(new).await?;
    let old = Index::drop()
        .name(format!("ix_targets_{}", old.join("_")))
        .table("targets")
        .to_owned();
    manager.drop_index(old).await
}
