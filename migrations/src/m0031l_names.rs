//! Names that operators give to deployments.

use sea_orm_migration::{prelude::*, schema::*};

use crate::index;

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // Empty for none; most have none.
        let name = Table::alter()
            .table("deployments")
            .add_column(text("name").default(""))
            .to_owned();
        manager.alter_table(name).await?;
        let mut unique = index("deployments", ["name"]);
        let named = unique
            .unique()
            .and_where(Expr::col("name").ne(""))
            .to_owned();
        manager.create_index(named).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let unique = Index::drop()
            .name("ix_deployments_name")
            .table("deployments")
            .to_owned();
        manager.drop_index(unique).await?;
        let name = Table::alter()
            .table("deployments")
            .drop_column("name")
            .to_owned();
        manager.alter_table(name).await
    }
}
