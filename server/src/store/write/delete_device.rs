//! Deletes a device. Before that the device is told to stop what it has in flight. What became of
//! that is part of the answer.

use std::collections::{BTreeSet, HashMap};

use kernex_proto::ids::{AttemptId, DeploymentId, DeviceId, TargetId};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QuerySelect};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    domain::attempt::{Closing, State},
    revocations::Cause,
    store::{
        db::{
            error::Result,
            new_event::Subject,
            sizes::{ID_CHUNK, padded},
            store::OperatorStore,
            transaction::Tx,
        },
        entity::{
            attempt, device,
            stored::{Stored, as_uuid},
            target,
        },
        read::{
            attempts::{key, unresolved_of},
            devices::find_device,
        },
        write::{
            audit::audit,
            change_attempts::Batch,
            replay::{Caller, remember, replayed},
            revoke::revoke_keys,
        },
    },
};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleted {
    #[serde(with = "as_uuid")]
    pub device: DeviceId,
    /// What it had in flight.
    pub work: Vec<StoppedWork>,
}

/// An attempt that a deleted device had in flight, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoppedWork {
    #[serde(with = "as_uuid")]
    pub deployment: DeploymentId,
    /// The bundle as `name:version`.
    pub bundle: String,
    pub attempt: u32,
    /// The state that is recorded.
    pub state: String,
    /// Whether the device answered the stop, or ended by itself. Otherwise its script may still
    /// run.
    pub answered: bool,
    /// What the device said.
    pub message: String,
}

/// The answer to a deletion, as it is kept for repetitions. Earlier versions kept only the device.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Remembered {
    Deleted(Deleted),
    Device(Stored<DeviceId>),
}

impl OperatorStore {
    /// Deletes a device. Its keys are revoked, its session ends, and its open attempts are
    /// cancelled. `stopped` are the attempts that it was told to stop before.
    pub async fn delete_device(
        &self,
        caller: &Caller,
        id_or_name: &str,
        stopped: &[AttemptId],
    ) -> Result<Deleted> {
        let db = &self.0;
        db.decide(|tx| async move {
            if let Some(remembered) = replayed::<Remembered>(&tx, caller).await? {
                return Ok(match remembered {
                    Remembered::Deleted(deleted) => deleted,
                    Remembered::Device(device) => Deleted {
                        device: device.0,
                        work: Vec::new(),
                    },
                });
            }
            let row = find_device(&tx.db, caller.scope, id_or_name).await?;
            let mut batch = Batch::deciding(&tx);
            batch.load(unresolved_of(row.id), None).await?;
            let mut given: BTreeSet<(Stored<TargetId>, i32)> =
                stopped.iter().copied().map(key).collect();
            for (key, entry) in batch.iter_mut() {
                let state = entry.facts().state;
                if !matches!(state, State::Held | State::Pending) {
                    given.insert(*key);
                }
                let _ = entry.close(&tx, Closing::DeviceGone, tx.now);
            }
            batch.save().await?;
            let work = stopped_work(&tx, row.id, &given).await?;
            revoke_keys(&tx, &row, Cause::Deleted).await?;
            device::Entity::delete_by_id(row.id).exec(&tx.db).await?;
            let deleted = Deleted {
                device: row.id.0,
                work,
            };
            remember(&tx, caller, &deleted).await?;
            let unanswered = deleted.work.iter().filter(|work| !work.answered).count();
            let detail = json!({ "name": row.name, "unanswered": unanswered });
            audit(&tx, caller, row.id, detail.clone()).await?;
            tx.event(
                "device.deleted",
                Subject::Device(row.id.0),
                caller.made(detail),
            );
            Ok(deleted)
        })
        .await
    }
}

/// These attempts of a device, with their deployments.
async fn stopped_work(
    tx: &Tx,
    device: Stored<DeviceId>,
    given: &BTreeSet<(Stored<TargetId>, i32)>,
) -> Result<Vec<StoppedWork>> {
    let mut work = Vec::with_capacity(given.len());
    let given: Vec<(Stored<TargetId>, i32)> = given.iter().copied().collect();
    for chunk in given.chunks(ID_CHUNK) {
        let ids = || padded(chunk.iter().map(|(target, _)| *target));
        let versions: HashMap<Stored<TargetId>, String> = target::Entity::find()
            .select_only()
            .columns([target::Column::Id, target::Column::BundleVersion])
            .filter(target::Column::Id.is_in(ids()))
            .into_tuple::<(Stored<TargetId>, String)>()
            .all(&tx.db)
            .await?
            .into_iter()
            .collect();
        let rows = attempt::Entity::find()
            .filter(attempt::Column::TargetId.is_in(ids()))
            .filter(attempt::Column::DeviceId.eq(device))
            .all(&tx.db)
            .await?;
        for row in rows {
            if !chunk.contains(&(row.target_id, row.number)) {
                continue;
            }
            let version = versions.get(&row.target_id).map_or("", String::as_str);
            work.push(StoppedWork {
                deployment: row.deployment_id.0,
                bundle: format!("{}:{version}", row.bundle_name),
                attempt: u32::try_from(row.number).unwrap_or(0),
                // The attempt was closed here before the device answered. The device's own answer
                // says how it ended.
                state: row.late_state.unwrap_or(row.state),
                answered: row.answered || row.stopped,
                message: row.late_message.unwrap_or(row.message),
            });
        }
    }
    work.sort_by(|one, other| {
        (one.deployment, &one.bundle).cmp(&(other.deployment, &other.bundle))
    });
    Ok(work)
}
