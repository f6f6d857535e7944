//! Stops everything that a device still has to do, before it is deleted.

use kernex_proto::ids::{AttemptId, DeviceId, TargetId};

use crate::{
    crash::Act,
    domain::attempt::Closing,
    store::{
        db::{
            error::{Result, StoreError},
            store::OperatorStore,
        },
        entity::stored::Stored,
        read::{attempts::unresolved_of, devices::find_device, scope::Scope},
        write::change_attempts::Batch,
    },
};

/// What a device has in flight that is about to be deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopping {
    pub device: DeviceId,
    /// Attempts that were pushed to it and are not answered.
    pub attempts: Vec<AttemptId>,
    /// Whether it is online, so that it hears of the stop.
    pub online: bool,
}

impl OperatorStore {
    /// Cancels the attempts that were not pushed, and tells the device to stop the others. `None`
    /// when there is no such device.
    pub async fn stop_device(&self, scope: Scope, id_or_name: &str) -> Result<Option<Stopping>> {
        let db = &self.0;
        let stopping = db
            .decide_as(Act::CommitCancel, |tx| async move {
                let row = match find_device(&tx.db, scope, id_or_name).await {
                    Err(StoreError::NotFound { .. }) => return Ok(None),
                    row => row?,
                };
                let mut batch = Batch::deciding(&tx);
                batch.load(unresolved_of(row.id), None).await?;
                let mut attempts = Vec::new();
                for (key, entry) in batch.iter_mut() {
                    let _ = entry.close(&tx, Closing::Cancel, tx.now);
                    if entry.facts().unresolved {
                        attempts.push(attempt_id(key));
                    }
                }
                batch.save().await?;
                Ok(Some((row.id.0, attempts)))
            })
            .await?;
        let Some((device, attempts)) = stopping else {
            return Ok(None);
        };
        let online = db.online(db.reader(), &[Stored(device)]).await?;
        Ok(Some(Stopping {
            device,
            attempts,
            online: online.contains(&Stored(device)),
        }))
    }
}

fn attempt_id(key: &(Stored<TargetId>, i32)) -> AttemptId {
    AttemptId {
        target: key.0.0,
        number: u32::try_from(key.1).unwrap_or(0),
    }
}
