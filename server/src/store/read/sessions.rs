//! Sessions of devices: their number, and the replica that has them.

use std::collections::{BTreeMap, BTreeSet};

use kernex_proto::ids::{DeviceId, JournalId};
use sea_orm::{
    ColumnTrait, EntityTrait, FromQueryResult, JoinType, QueryFilter, QuerySelect,
    sea_query::{Expr, ExprTrait as _, Query},
};

use crate::store::{
    db::{error::Result, sizes::padded, store::Store, transaction::Tx, values::signed},
    entity::{
        device, session,
        stored::{ReplicaId, Stored},
    },
};

impl Store {
    /// Those of a replica's open sessions that have ended without its knowledge: the device has a
    /// newer one on another replica, or an operator decided between copies of it. `here` has to be
    /// older than this question.
    pub async fn sessions_lost(
        &self,
        replica: ReplicaId,
        here: &[(DeviceId, u64)],
    ) -> Result<Vec<(DeviceId, u64)>> {
        let held: BTreeSet<(Stored<DeviceId>, i64)> = session::Entity::find()
            .select_only()
            .columns([session::Column::DeviceId, session::Column::Epoch])
            .filter(session::Column::Replica.eq(Stored(replica)))
            .into_tuple()
            .all(self.reader())
            .await?
            .into_iter()
            .collect();
        let lost = here
            .iter()
            .filter(|(device, epoch)| !held.contains(&(Stored(*device), signed(*epoch))));
        Ok(lost.copied().collect())
    }

    /// Whether this is the session of its device.
    pub async fn is_session(&self, device: DeviceId, epoch: u64) -> Result<bool> {
        let session = session::Entity::find_by_id(Stored(device))
            .one(self.reader())
            .await?;
        Ok(session.is_some_and(|session| session.epoch == signed(epoch)))
    }
}

/// An open session, with the columns of its device that events and copies need.
#[derive(FromQueryResult)]
pub(crate) struct DeviceSession {
    pub(crate) device_id: Stored<DeviceId>,
    pub(crate) epoch: i64,
    pub(crate) journal_id: Stored<JournalId>,
    pub(crate) name: String,
    pub(crate) conflicted: bool,
}

/// Those of these sessions that are still open, by device.
pub(crate) async fn still_open(
    tx: &Tx,
    numbered: &[(DeviceId, u64)],
) -> Result<BTreeMap<Stored<DeviceId>, DeviceSession>> {
    let asked: BTreeMap<Stored<DeviceId>, i64> = numbered
        .iter()
        .map(|(device, epoch)| (Stored(*device), signed(*epoch)))
        .collect();
    let device = session::Entity::belongs_to(device::Entity)
        .from(session::Column::DeviceId)
        .to(device::Column::Id);
    let sessions: Vec<DeviceSession> = session::Entity::find()
        .select_only()
        .columns([
            session::Column::DeviceId,
            session::Column::Epoch,
            session::Column::JournalId,
        ])
        .columns([device::Column::Name, device::Column::Conflicted])
        .join(JoinType::InnerJoin, device.into())
        .filter(session::Column::DeviceId.is_in(padded(asked.keys().copied())))
        .into_model()
        .all(&tx.db)
        .await?;
    Ok(sessions
        .into_iter()
        .filter(|session| asked.get(&session.device_id) == Some(&session.epoch))
        .map(|session| (session.device_id, session))
        .collect())
}

/// In a statement about devices: the number of each one's session.
pub(crate) fn session_epoch() -> Expr {
    let number = Query::select()
        .column(session::Column::Epoch)
        .from(session::Entity)
        .and_where(
            Expr::col((session::Entity, session::Column::DeviceId))
                .equals((device::Entity, device::Column::Id)),
        )
        .to_owned();
    Expr::SubQuery(None, Box::new(number.into()))
}
