//! How a device authenticated last.
//!
//! `devices.protocol_revision`: newest revision of the session protocol its key has spoken, else 0;
//! an older one is refused. `devices.conflict`: why the device is conflicted, else empty.

use sea_orm_migration::{prelude::*, schema::*};

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let columns = [
            big_integer("protocol_revision").default(0).to_owned(),
            text("conflict").default("").to_owned(),
        ];
        for column in columns {
            // SQLite takes one change at a time.
            let change = Table::alter()
                .table("devices")
                .add_column(column)
                .to_owned();
            manager.alter_table(change).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for column in ["protocol_revision", "conflict"] {
            let change = Table::alter()
                .table("devices")
                .drop_column(column)
                .to_owned();
            manager.alter_table(change).await?;
        }
        Ok(())
    }
}
