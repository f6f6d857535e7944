//! Deployments that proceed in phases.

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
        // What was asked for, and what became of it; counts are derived from targets.
        let phases = Table::create()
            .table("phases")
            .col(uuid("deployment_id"))
            // From 1.
            .col(integer("number"))
            // One of the two; a point is a hundredth of a percent.
            .col(big_integer_null("size_count"))
            .col(integer_null("size_points"))
            .col(integer_null("success_points"))
            // One of the two.
            .col(big_integer_null("failures_count"))
            .col(integer_null("failures_points"))
            .col(big_integer("soak_us"))
            .col(big_integer_null("opened_at"))
            .col(big_integer_null("passed_at"))
            .col(big_integer_null("soaked_at"))
            // Failures that an operator accepted.
            .col(big_integer("forgiven"))
            .primary_key(&mut key(["deployment_id", "number"]))
            .foreign_key(
                ForeignKey::create()
                    .from("phases", "deployment_id")
                    .to("deployments", "id")
                    .on_delete(ForeignKeyAction::Cascade),
            )
            .to_owned();
        manager.create_table(phases).await?;
        // The times are facts about phases now.
        alter(manager, |table| table.drop_column("phase_opened_at")).await?;
        alter(manager, |table| table.drop_column("phase_soaked_at")).await?;
        // Without phases every target was opened when the deployment was made.
        let count = || integer("phase_count").default(0).to_owned();
        alter(manager, |table| table.add_column(count())).await?;
        alter(manager, |table| {
            table.add_column(big_integer_null("max_in_flight"))
        })
        .await?;
        // A JSON object from label to number: read as a whole, never searched.
        let budgets = || text("budgets").default("{}").to_owned();
        alter(manager, |table| table.add_column(budgets())).await?;
        let approval = || boolean("approval").default(false).to_owned();
        alter(manager, |table| table.add_column(approval())).await?;
        let on_failure = || text("on_failure").default("pause").to_owned();
        alter(manager, |table| table.add_column(on_failure())).await?;
        // Those the planner looks at.
        let mut planned = index("deployments", ["state"]);
        manager
            .create_index(planned.and_where(Expr::col("phase_count").gt(0)).to_owned())
            .await?;
        // Targets of a phase are opened in this order.
        let rank = Table::alter()
            .table("targets")
            .add_column(big_integer("rank").default(0))
            .to_owned();
        manager.alter_table(rank).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let rank = Table::alter()
            .table("targets")
            .drop_column("rank")
            .to_owned();
        manager.alter_table(rank).await?;
        let name = "ix_deployments_state";
        let planned = Index::drop().name(name).table("deployments").to_owned();
        manager.drop_index(planned).await?;
        for column in [
            "on_failure",
            "approval",
            "budgets",
            "max_in_flight",
            "phase_count",
        ] {
            alter(manager, |table| table.drop_column(column)).await?;
        }
        for column in ["phase_opened_at", "phase_soaked_at"] {
            alter(manager, |table| table.add_column(big_integer_null(column))).await?;
        }
        drop_tables(manager, &["phases"]).await
    }
}

/// Changes one thing about the table; SQLite allows one change at a time.
async fn alter(
    manager: &SchemaManager<'_>,
    change: impl FnOnce(&mut TableAlterStatement) -> &mut TableAlterStatement,
) -> Result<(), DbErr> {
    let mut table = Table::alter();
    change(table.table("deployments"));
    manager.alter_table(table).await
}
