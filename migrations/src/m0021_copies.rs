//! How the copies of a device are told apart after an operator has decided between them.
//!
//! `journals.confirmed_epoch`: newest epoch confirmed in this journal while its device is
//! conflicted, else 0. `journals.given_up_below`: copies of this journal that know no epoch as new
//! as this were decided against.

use sea_orm_migration::{prelude::*, schema::*};

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

const COLUMNS: [&str; 2] = ["confirmed_epoch", "given_up_below"];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for column in COLUMNS {
            // SQLite takes one change at a time.
            let change = Table::alter()
                .table("journals")
                .add_column(big_integer(column).default(0))
                .to_owned();
            manager.alter_table(change).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for column in COLUMNS {
            let change = Table::alter()
                .table("journals")
                .drop_column(column)
                .to_owned();
            manager.alter_table(change).await?;
        }
        Ok(())
    }
}
