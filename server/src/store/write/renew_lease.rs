//! Renews the lease by which a replica counts as alive.

use std::time::Duration;

use sea_orm::sea_query::OnConflict;

use crate::store::{
    db::{error::Result, sizes::insert_all, store::Store},
    entity::{
        lease,
        stored::{ReplicaId, Stored},
    },
};

impl Store {
    /// A replica counts as alive for another `ttl`.
    pub async fn renew_lease(&self, replica: ReplicaId, ttl: Duration) -> Result<()> {
        self.write_beside(|tx| async move {
            let row = lease::Model {
                replica: Stored(replica),
                expires_at: tx.now.plus(ttl).0,
            };
            let renewed = OnConflict::column(lease::Column::Replica)
                .update_column(lease::Column::ExpiresAt)
                .to_owned();
            insert_all::<lease::Entity>(&tx.db, vec![row], Some(renewed)).await?;
            Ok(())
        })
        .await
    }
}
