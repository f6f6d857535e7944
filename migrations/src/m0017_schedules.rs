//! When the targets of a deployment may begin, and which devices join it later. Most deployments
//! have no such row.

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
        let schedules = Table::create()
            .table("schedules")
            .col(uuid("deployment_id").primary_key())
            .col(big_integer_null("start_at"))
            // A JSON array of texts; open while any of them is, always when there are none.
            .col(text("windows"))
            .col(big_integer("spread_us"))
            .col(big_integer_null("deadline"))
            // Whether what was open at the deadline has been closed.
            .col(boolean("deadline_passed"))
            // Devices that match it later join; null for a fixed set of devices.
            .col(text_null("selector"))
            // Failures in a row after which a device is left out, as it was set when the order was
            // given; 0 for never.
            .col(integer("penalty_after"))
            .foreign_key(
                ForeignKey::create()
                    .from("schedules", "deployment_id")
                    .to("deployments", "id")
                    .on_delete(ForeignKeyAction::Cascade),
            )
            .to_owned();
        manager.create_table(schedules).await?;
        let mut deadlines = index("schedules", ["deadline"]);
        let pending = Expr::col("deadline_passed")
            .not()
            .and(Expr::col("deadline").is_not_null());
        manager
            .create_index(deadlines.and_where(pending).to_owned())
            .await?;
        let mut dynamic = index("schedules", ["deployment_id"]);
        let selects = Expr::col("selector").is_not_null();
        manager
            .create_index(dynamic.and_where(selects).to_owned())
            .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop_tables(manager, &["schedules"]).await
    }
}
