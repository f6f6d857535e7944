//! How deployments ended.
//!
//! `deployments.ended_reason`: why it was ended by itself.
//! `deployments.rolled_back_by`: the newest deployment that returned its devices.

use sea_orm_migration::{prelude::*, schema::*};

#[derive(Debug, DeriveMigrationName)]
pub(crate) struct Migration;

const TABLE: &str = "deployments";

/// Fills the new column for rollbacks that were ordered before it existed.
const ROLLED_BACK: &str = "UPDATE deployments SET rolled_back_by = (SELECT r.id FROM deployments AS r \
     WHERE r.rolls_back = deployments.id ORDER BY r.id DESC LIMIT 1) \
     WHERE id IN (SELECT rolls_back FROM deployments WHERE rolls_back IS NOT NULL)";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let reason = Table::alter()
            .table(TABLE)
            .add_column(text("ended_reason").default(""))
            .to_owned();
        manager.alter_table(reason).await?;
        let by = Table::alter()
            .table(TABLE)
            .add_column(uuid_null("rolled_back_by"))
            .to_owned();
        manager.alter_table(by).await?;
        manager
            .get_connection()
            .execute_unprepared(ROLLED_BACK)
            .await
            .map(drop)
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for column in ["rolled_back_by", "ended_reason"] {
            let drop = Table::alter().table(TABLE).drop_column(column).to_owned();
            manager.alter_table(drop).await?;
        }
        Ok(())
    }
}
