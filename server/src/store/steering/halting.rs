//! A deployment that is halted, and who has answered.

use sea_orm::{
    ConnectionTrait, FromQueryResult,
    sea_query::{Condition, Order, Query, TableRef},
};

use super::*;
use crate::{
    domain::attempt::State,
    store::{attempts::named, transaction::ID_CHUNK},
};

/// A device that was told to stop, or that had not begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Halted {
    /// The device.
    pub device: DeviceId,
    /// Its name when the target was made.
    pub device_name: String,
    /// It has answered, or had never been told to begin.
    pub acknowledged: bool,
    /// It is connected.
    pub online: bool,
    /// State of its latest attempt.
    pub state: State,
}

#[derive(FromQueryResult)]
struct Row {
    device_id: Uuid,
    device_name: String,
    state: String,
    unresolved: bool,
}

impl Store {
    /// Cancels a deployment unless that was done before; also gives the devices to tell. One that is finished can be halted
    /// as long as a device has not answered.
    pub async fn halt_deployment(&self, caller: &Caller, id: DeploymentId) -> Result<Steered> {
        let body = body_hash(&id.0);
        self.write(|tx| async move {
            if replayed::<Uuid>(&tx, caller, body).await?.is_some() {
                return steered(&tx, id).await;
            }
            let row = find_row(&tx.db, id.0).await?;
            if row.state == DeploymentState::Finished.as_str() {
                if halted_rows(&tx.db, id.0)
                    .await?
                    .iter()
                    .all(|row| !row.unresolved)
                {
                    return Err(StoreError::Finished);
                }
            } else if row.cancelled_at.is_none() {
                let devices = cancel(&tx, &row).await?;
                let detail = json!({ "by": caller.name, "devices": devices.len() });
                record(&tx, caller, id, "deployment.halted", detail).await?;
            }
            remember(&tx, caller, body, &id.0).await?;
            steered(&tx, id).await
        })
        .await
    }

    /// The devices of a halted deployment, by name: those that were told to stop, and those that had not begun.
    pub async fn halted(&self, id: DeploymentId) -> Result<Vec<Halted>> {
        let rows = by_device(halted_rows(self.reader(), id.0).await?);
        let devices: Vec<Uuid> = rows.iter().map(|row| row.device_id).collect();
        let mut online = BTreeSet::new();
        for chunk in devices.chunks(ID_CHUNK) {
            online.extend(self.online(self.reader(), chunk).await?);
        }
        rows.into_iter()
            .map(|row| {
                Ok(Halted {
                    device: DeviceId(row.device_id),
                    acknowledged: !row.unresolved,
                    online: online.contains(&row.device_id),
                    state: named("state", &row.state, State::parse)?,
                    device_name: row.device_name,
                })
            })
            .collect()
    }
}

/// One row a device: its newest attempt, unresolved as long as one before it is. A retry may wait for an attempt that is closed
/// here and at work there.
fn by_device(rows: Vec<Row>) -> Vec<Row> {
    let mut devices: Vec<Row> = Vec::with_capacity(rows.len());
    for row in rows {
        match devices.last_mut() {
            Some(before) if before.device_id == row.device_id => {
                let unresolved = before.unresolved || row.unresolved;
                *before = Row { unresolved, ..row };
            }
            _ => devices.push(row),
        }
    }
    devices
}

/// Attempts that are unresolved, that were told to stop, or that ended because of it; by device and number.
async fn halted_rows<C: ConnectionTrait>(db: &C, deployment: Uuid) -> Result<Vec<Row>> {
    let stopped = Condition::any()
        .add(Expr::col(("a", "unresolved")))
        .add(Expr::col(("a", "stop_sent_epoch")).gt(0))
        .add(Expr::col(("a", "state")).eq(State::Cancelled.as_str()));
    let query = Query::select()
        .columns([("a", "device_id"), ("a", "state"), ("a", "unresolved")])
        .column(("t", "device_name"))
        .from_as("attempts", "a")
        .inner_join(
            TableRef::from("targets").alias("t"),
            Expr::col(("t", "id")).equals(("a", "target_id")),
        )
        .and_where(Expr::col(("a", "deployment_id")).eq(deployment))
        .cond_where(stopped)
        .order_by(("t", "device_name"), Order::Asc)
        .order_by(("t", "id"), Order::Asc)
        .order_by(("a", "number"), Order::Asc)
        .to_owned();
    let rows = db.query_all(&query).await?;
    Ok(rows
        .iter()
        .map(|row| Row::from_query_result(row, ""))
        .collect::<Result<_, _>>()?)
}
