//! Deployments, their targets, and the numbered attempts that hold the state.

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
        // Facts, not counts: counts are derived from targets.
        let deployments = Table::create()
            .table("deployments")
            .col(uuid("id").primary_key())
            .col(text("bundle_name"))
            .col(text("bundle_version"))
            .col(text("digest"))
            .col(text("state"))
            .col(text_null("result"))
            .col(text("paused_reason"))
            .col(integer("phase"))
            .col(big_integer_null("phase_opened_at"))
            .col(big_integer_null("phase_soaked_at"))
            .col(big_integer("delivery_us"))
            .col(big_integer("execution_us"))
            .col(text("traceparent"))
            .col(text("created_by"))
            .col(big_integer("created_at"))
            .col(big_integer_null("cancelled_at"))
            .col(big_integer_null("finished_at"))
            .col(big_integer("revision"))
            .to_owned();
        manager.create_table(deployments).await?;
        // The bundle stands on the target, because going back can leave a fleet with several.
        let targets = Table::create()
            .table("targets")
            .col(uuid("id").primary_key())
            .col(uuid("deployment_id"))
            .col(uuid("device_id"))
            .col(text("device_name"))
            .col(text("bundle_name"))
            .col(text("bundle_version"))
            .col(text("digest"))
            .col(big_integer("generation"))
            .col(integer("phase"))
            .col(integer("latest_attempt"))
            .col(big_integer("created_at"))
            .foreign_key(
                ForeignKey::create()
                    .from("targets", "deployment_id")
                    .to("deployments", "id")
                    .on_delete(ForeignKeyAction::Cascade),
            )
            .to_owned();
        manager.create_table(targets).await?;
        let mut unique = index("targets", ["deployment_id", "device_id"]);
        manager.create_index(unique.unique().to_owned()).await?;
        manager
            .create_index(index("targets", ["device_id", "id"]))
            .await?;
        manager.create_index(index("targets", ["digest"])).await?;
        manager.create_table(attempts()).await?;
        manager
            .create_index(index("attempts", ["deployment_id", "updated_at"]))
            .await?;
        // The queue: attempts that the agent may hold or is still to get.
        let mut queue = index("attempts", ["device_id", "bundle_name", "generation"]);
        manager
            .create_index(queue.and_where(Expr::col("unresolved")).to_owned())
            .await?;
        let mut open = index("attempts", ["deployment_id"]);
        manager
            .create_index(open.and_where(Expr::col("unresolved")).to_owned())
            .await?;
        let mut deadlines = index("attempts", ["state", "delivery_deadline"]);
        manager
            .create_index(deadlines.and_where(Expr::col("unresolved")).to_owned())
            .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop_tables(manager, &["attempts", "targets", "deployments"]).await
    }
}

fn attempts() -> TableCreateStatement {
    Table::create()
        .table("attempts")
        .col(uuid("target_id"))
        .col(integer("number"))
        .col(uuid("deployment_id"))
        .col(uuid("device_id"))
        .col(text("bundle_name"))
        .col(big_integer("generation"))
        // Each write adds one and names the one it read: compare-and-set.
        .col(big_integer("revision"))
        .col(text("state"))
        .col(boolean("unresolved"))
        .col(text_null("reason"))
        .col(text("message"))
        .col(text_null("step"))
        .col(big_integer("bytes_done"))
        .col(big_integer("bytes_total"))
        .col(integer_null("exit_code"))
        .col(text("output_tail"))
        .col(big_integer_null("duration_ms"))
        .col(boolean("stop_requested"))
        .col(big_integer("sent_epoch"))
        .col(big_integer("stop_sent_epoch"))
        .col(big_integer("delivery_deadline"))
        .col(big_integer("execution_us"))
        .col(big_integer_null("execution_deadline"))
        .col(big_integer("created_at"))
        .col(big_integer("updated_at"))
        .col(big_integer_null("accepted_at"))
        .col(big_integer_null("closed_at"))
        .col(boolean("answered"))
        // The outcome that came after the attempt had closed.
        .col(text_null("late_state"))
        .col(text_null("late_reason"))
        .col(text_null("late_message"))
        .col(integer_null("late_exit_code"))
        .col(text_null("late_output_tail"))
        .col(big_integer_null("late_at"))
        .primary_key(&mut key(["target_id", "number"]))
        .foreign_key(
            ForeignKey::create()
                .from("attempts", "target_id")
                .to("targets", "id")
                .on_delete(ForeignKeyAction::Cascade),
        )
        .to_owned()
}
