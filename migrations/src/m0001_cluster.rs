//! The installation itself: its id, its replicas, and the answers given to repeated requests.

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
        // One row. The cursor is the number of the newest event; a transaction that writes events
        // locks this row until it commits.
        let cluster = Table::create()
            .table("cluster")
            .col(integer("id").primary_key())
            .col(uuid("cluster_id"))
            .col(big_integer("event_cursor"))
            .col(big_integer("created_at"))
            .to_owned();
        manager.create_table(cluster).await?;
        let leases = Table::create()
            .table("leases")
            .col(uuid("replica").primary_key())
            .col(big_integer("expires_at"))
            .to_owned();
        manager.create_table(leases).await?;
        let requests = Table::create()
            .table("requests")
            .col(text("principal"))
            .col(text("method"))
            .col(uuid("request_id"))
            .col(text("body_hash"))
            .col(text("response"))
            .col(big_integer("created_at"))
            .primary_key(&mut key(["principal", "method", "request_id"]))
            .to_owned();
        manager.create_table(requests).await?;
        manager
            .create_index(index("requests", ["created_at"]))
            .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop_tables(manager, &["requests", "leases", "cluster"]).await
    }
}
