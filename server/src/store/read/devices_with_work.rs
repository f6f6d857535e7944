//! Which devices have something to be pushed. Indexes alone answer both questions, so the cost is
//! that of the work, not that of the fleet.

use std::collections::HashSet;

use kernex_proto::ids::DeviceId;
use sea_orm::{
    ConnectionTrait,
    sea_query::{Expr, ExprTrait as _, Query, SelectStatement, TableRef},
};

use crate::store::{
    db::{error::Result, store::Store},
    entity::{attempt, device_configuration, session, stored::Stored},
};

impl Store {
    /// Devices with an unresolved attempt.
    pub async fn devices_with_attempts(&self) -> Result<HashSet<DeviceId>> {
        let mut query = Query::select();
        query
            .distinct()
            .column(attempt::Column::DeviceId)
            .from(attempt::Entity)
            .and_where(Expr::col(attempt::Column::Unresolved));
        self.devices(&query).await
    }

    /// Devices with a session in which their configuration was not pushed yet.
    pub async fn devices_to_configure(&self) -> Result<HashSet<DeviceId>> {
        let mut query = Query::select();
        query
            .column(("c", device_configuration::Column::DeviceId))
            .from_as(device_configuration::Entity, "c")
            .inner_join(
                TableRef::from(session::Entity).alias("s"),
                Expr::col(("s", session::Column::DeviceId))
                    .equals(("c", device_configuration::Column::DeviceId)),
            )
            .and_where(
                Expr::col(("c", device_configuration::Column::SentEpoch))
                    .lt(Expr::col(("s", session::Column::Epoch))),
            );
        self.devices(&query).await
    }

    async fn devices(&self, query: &SelectStatement) -> Result<HashSet<DeviceId>> {
        let rows = self.reader().query_all(query).await?;
        rows.iter()
            .map(|row| Ok(row.try_get::<Stored<DeviceId>>("", "device_id")?.0))
            .collect()
    }
}
