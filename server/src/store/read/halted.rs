//! The devices of a halted deployment, and who has answered.

use std::collections::BTreeSet;

use kernex_proto::ids::{DeploymentId, DeviceId};
use sea_orm::{
    ColumnTrait, ConnectionTrait, FromQueryResult, PaginatorTrait, QueryFilter,
    sea_query::{Condition, Expr, ExprTrait, Order, Query, TableRef},
};

use crate::{
    domain::{
        attempt::{FailureReason, State},
        halt::{HaltFacts, HaltStanding},
    },
    store::{
        db::{error::Result, sizes::ID_CHUNK},
        entity::{attempt, deployment, stored::Stored, target},
        read::{
            attempts::{reason, state},
            deployments::deployment_row,
            joined::{is_of_target, read_rows},
            scope::View,
        },
    },
};

/// A device that was not done when its deployment was halted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HaltedDevice {
    pub device: DeviceId,
    /// Its name when the target was made.
    pub device_name: String,
    pub online: bool,
    /// State of its latest attempt.
    pub state: State,
    pub reason: Option<FailureReason>,
    pub standing: HaltStanding,
}

impl HaltedDevice {
    /// Whether the halt has reached it: nothing that was to end runs there.
    #[must_use]
    pub const fn is_acknowledged(&self) -> bool {
        !matches!(
            self.standing,
            HaltStanding::NotAnswered | HaltStanding::Offline
        )
    }
}

/// The devices of a halted deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HaltStatus {
    /// Those that were not done, by name.
    pub devices: Vec<HaltedDevice>,
    /// How many were.
    pub done_before: u32,
}

#[derive(FromQueryResult)]
struct Row {
    device_id: Stored<DeviceId>,
    device_name: String,
    state: String,
    reason: Option<String>,
    unresolved: bool,
    stopped: bool,
    stop_going_back: bool,
    accepted_at: Option<i64>,
}

impl Row {
    fn facts(&self) -> Result<HaltFacts> {
        Ok(HaltFacts {
            state: state(&self.state)?,
            was_taken: self.accepted_at.is_some(),
            may_run: self.unresolved && (!self.stopped || self.stop_going_back),
            unresolved: self.unresolved,
        })
    }
}

impl View {
    /// What became of the devices of a halted deployment.
    pub async fn halted(&self, id: DeploymentId) -> Result<HaltStatus> {
        let row = deployment_row(self.reader(), self.scope, id).await?;
        let targets = self
            .rows::<target::Entity>()
            .filter(target::Column::DeploymentId.eq(id.0))
            .count(self.reader())
            .await?;
        let rows = halted_rows(self.reader(), &row).await?;
        let mut devices: Vec<(Row, HaltFacts)> = Vec::with_capacity(rows.len());
        for row in rows {
            let facts = row.facts()?;
            match devices.last_mut() {
                Some((before, earlier)) if before.device_id == row.device_id => {
                    *earlier = facts.after(*earlier);
                    *before = row;
                }
                _ => devices.push((row, facts)),
            }
        }
        let ids: Vec<Stored<DeviceId>> = devices.iter().map(|(row, _)| row.device_id).collect();
        let mut online = BTreeSet::new();
        for chunk in ids.chunks(ID_CHUNK) {
            online.extend(self.store.online(self.reader(), chunk).await?);
        }
        let done_before = targets.saturating_sub(devices.len() as u64);
        let devices = devices.into_iter().map(|(row, facts)| {
            let online = online.contains(&row.device_id);
            Ok(HaltedDevice {
                device: row.device_id.0,
                online,
                state: facts.state,
                reason: reason(row.reason.as_deref())?,
                standing: facts.standing(online),
                device_name: row.device_name,
            })
        });
        Ok(HaltStatus {
            devices: devices.collect::<Result<_>>()?,
            done_before: u32::try_from(done_before).unwrap_or(u32::MAX),
        })
    }
}

/// Attempts that are unresolved, or that closed with the halt or after it; by device and number.
async fn halted_rows<C: ConnectionTrait>(db: &C, row: &deployment::Model) -> Result<Vec<Row>> {
    let mut concerned = Condition::any().add(Expr::col(("a", attempt::Column::Unresolved)));
    if let Some(halted_at) = row.cancelled_at {
        concerned = concerned.add(Expr::col(("a", attempt::Column::ClosedAt)).gte(halted_at));
    }
    let mut query = Query::select();
    for column in [
        attempt::Column::DeviceId,
        attempt::Column::State,
        attempt::Column::Reason,
        attempt::Column::Unresolved,
        attempt::Column::Stopped,
        attempt::Column::StopGoingBack,
        attempt::Column::AcceptedAt,
    ] {
        query.column(("a", column));
    }
    query
        .column(("t", target::Column::DeviceName))
        .from_as(attempt::Entity, "a")
        .inner_join(TableRef::from(target::Entity).alias("t"), is_of_target())
        .and_where(Expr::col(("a", attempt::Column::DeploymentId)).eq(row.id))
        .cond_where(concerned)
        .order_by(("t", target::Column::DeviceName), Order::Asc)
        .order_by(("t", target::Column::Id), Order::Asc)
        .order_by(("a", attempt::Column::Number), Order::Asc);
    read_rows(db, &query).await
}
