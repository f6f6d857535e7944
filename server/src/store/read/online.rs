//! Which devices are online: those with a confirmed session on a server that lives.

use std::collections::BTreeSet;

use kernex_proto::ids::DeviceId;
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter};

use crate::store::{
    db::{error::Result, store::Store},
    entity::{
        lease, session,
        stored::{ReplicaId, Stored},
    },
};

impl Store {
    /// Those of these devices that are online.
    pub(crate) async fn online<C: ConnectionTrait>(
        &self,
        db: &C,
        ids: &[Stored<DeviceId>],
    ) -> Result<BTreeSet<Stored<DeviceId>>> {
        let replicas = self.live_replicas(db).await?;
        let sessions = session::Entity::find()
            .filter(session::Column::DeviceId.is_in(ids.iter().copied()))
            .filter(session::Column::ConfirmedAt.is_not_null())
            .filter(session::Column::Replica.is_in(replicas))
            .all(db)
            .await?;
        Ok(sessions
            .into_iter()
            .map(|session| session.device_id)
            .collect())
    }

    /// The servers whose lease has not ended; only their sessions count.
    pub(crate) async fn live_replicas<C: ConnectionTrait>(
        &self,
        db: &C,
    ) -> Result<Vec<Stored<ReplicaId>>> {
        let leases = lease::Entity::find()
            .filter(lease::Column::ExpiresAt.gt(self.now().0))
            .all(db)
            .await?;
        Ok(leases.into_iter().map(|lease| lease.replica).collect())
    }
}
