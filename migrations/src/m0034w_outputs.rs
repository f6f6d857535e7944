//! Of which step and stream the parts of a script's output are: `attempts.output_marks`, a JSON
//! array of `[place, step, stream]`, empty where that is not known.

use sea_orm_migration::{prelude::*, schema::*};

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

const TABLE: &str = "attempts";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let marks = Table::alter()
            .table(TABLE)
            .add_column(text("output_marks").default(""))
            .to_owned();
        manager.alter_table(marks).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let marks = Table::alter()
            .table(TABLE)
            .drop_column("output_marks")
            .to_owned();
        manager.alter_table(marks).await
    }
}
