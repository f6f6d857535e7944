//! Inserts the targets and first attempts of an order. The number of statements does not grow with
//! the fleet.

use std::{collections::BTreeMap, time::Duration};

use kernex_proto::ids::{DeploymentId, DeviceId, TargetId};
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryTrait,
    sea_query::{Expr, ExprTrait},
};
use serde_json::json;

use crate::{
    clock::Timestamp,
    domain::{
        attempt::{Attempt, Closing, State, apply},
        penalty::Penalty,
        rollout::{DeploymentState, OnFailure, Rollout, TargetPlace},
    },
    store::{
        db::{
            error::Result,
            new_event::Subject,
            sizes::{ID_CHUNK, insert_all, padded},
            transaction::Tx,
            values::{clean, unsigned},
        },
        entity::{attempt, bundle, deployment, device, stored::Stored, target},
        read::{
            new_deployment::NewDeployment, penalties::penalties, selected_devices::SelectedDevice,
        },
        write::{
            insert_attempts::{NewAttempt, insert_alike},
            insert_phases::budgets_text,
            replay::Caller,
        },
    },
};

pub(crate) fn deployment_of(
    tx: &Tx,
    caller: &Caller,
    new: &NewDeployment,
    bundle: &bundle::Model,
    rollout: Option<&Rollout>,
) -> deployment::Model {
    let micros = |time: std::time::Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
    deployment::Model {
        id: Stored(DeploymentId(tx.new_id())),
        bundle_name: bundle.name.clone(),
        bundle_version: bundle.version.clone(),
        digest: bundle.digest.clone(),
        state: DeploymentState::Active.as_str().to_owned(),
        result: None,
        paused_reason: String::new(),
        ended_reason: String::new(),
        rolled_back_by: None,
        phase: 0,
        delivery_us: micros(new.delivery),
        execution_us: micros(new.execution),
        traceparent: clean(&new.traceparent),
        created_by: caller.name.clone(),
        created_at: tx.now.0,
        cancelled_at: None,
        finished_at: None,
        revision: 1,
        phase_count: rollout.map_or(0, |rollout| rollout.phases.len() as i32),
        max_in_flight: rollout.and_then(|rollout| rollout.max_in_flight.map(i64::from)),
        budgets: budgets_text(rollout.map_or(&[], |rollout| &rollout.budgets)),
        approval: rollout.is_some_and(|rollout| rollout.approval),
        on_failure: rollout
            .map_or(OnFailure::Pause, |rollout| rollout.on_failure)
            .as_str()
            .to_owned(),
        name: new.terms.name.clone(),
        rolls_back: None,
        selector: new
            .selector
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        named_devices: (new.device_ids.len() + new.device_names.len()) as i64,
        message: new.message.clone(),
        created_from: caller.origin.address.map(|address| address.to_string()),
        token_id: caller.origin.token.map(Stored),
    }
}

pub(crate) struct Inserted {
    /// Targets that were closed at once, because their devices have failed the bundle too often.
    pub(crate) penalised: usize,
    /// Each device with its target.
    pub(crate) targets: Vec<(DeviceId, TargetId)>,
}

/// Inserts a target and its first attempt for each device.
pub(crate) async fn insert_targets(
    tx: &Tx,
    row: &deployment::Model,
    penalty_after: u32,
    devices: &BTreeMap<Stored<DeviceId>, SelectedDevice>,
    places: &BTreeMap<Stored<DeviceId>, TargetPlace>,
) -> Result<Inserted> {
    let ids: Vec<Stored<DeviceId>> = devices.keys().copied().collect();
    for chunk in ids.chunks(ID_CHUNK) {
        let next = Expr::col(device::Column::Generation).add(1);
        let update = device::Entity::update_many()
            .col_expr(device::Column::Generation, next)
            .filter(device::Column::Id.is_in(padded(chunk.iter().copied())));
        tx.db.execute(update.as_query()).await?;
    }
    let may_have_failed = devices.values().filter(|device| device.may_have_failed);
    let may_have_failed: Vec<Stored<DeviceId>> = may_have_failed.map(|device| device.id).collect();
    let penalties = penalties(&tx.db, &row.digest, &may_have_failed, penalty_after).await?;
    let execution = Duration::from_micros(unsigned(row.execution_us));
    // Without phases each target is opened with the order.
    let facts = if row.phase_count > 0 {
        Attempt::held(execution)
    } else {
        let deadline = Timestamp(tx.now.0.saturating_add(row.delivery_us));
        Attempt::new(State::Pending, deadline, execution)
    };
    let attempt = |device: Stored<DeviceId>, target: Stored<TargetId>, generation| NewAttempt {
        target: target.0,
        number: 1,
        deployment: row.id.0,
        device: device.0,
        bundle_name: &row.bundle_name,
        generation,
        facts: facts.clone(),
    };
    let mut targets = Vec::with_capacity(devices.len());
    let (mut alike, mut closed) = (Vec::with_capacity(devices.len()), Vec::new());
    for device in devices.values() {
        let place = places.get(&device.id).copied().unwrap_or_default();
        let target = target::Model {
            id: Stored(TargetId(tx.new_id())),
            deployment_id: row.id,
            device_id: device.id,
            device_name: device.name.clone(),
            bundle_name: row.bundle_name.clone(),
            bundle_version: row.bundle_version.clone(),
            digest: row.digest.clone(),
            // The value that the update above wrote, because writers are serial.
            generation: device.generation + 1,
            phase: place.phase as i32,
            latest_attempt: 1,
            created_at: tx.now.0,
            rank: place.rank,
        };
        match penalties.get(&device.id) {
            Some(penalty) => {
                let attempt = attempt(device.id, target.id, target.generation);
                closed.push(penalised(tx, attempt, penalty));
            }
            None => alike.push(target.id),
        }
        targets.push(target);
    }
    let inserted = Inserted {
        penalised: penalties.len(),
        targets: targets
            .iter()
            .map(|target| (target.device_id.0, target.id.0))
            .collect(),
    };
    insert_all::<target::Entity>(&tx.db, targets, None).await?;
    let one_of_them = attempt(Stored::nil(), Stored::nil(), 0).into_row(tx.now);
    insert_alike(tx, one_of_them, &alike).await?;
    insert_all::<attempt::Entity>(&tx.db, closed, None).await?;
    Ok(inserted)
}

/// An attempt that is closed as failed before it began, because its device is penalised.
fn penalised(tx: &Tx, mut attempt: NewAttempt<'_>, penalty: &Penalty) -> attempt::Model {
    if let Some(closed) = apply(&attempt.facts, Closing::Penalise, tx.now).changed() {
        attempt.facts = closed;
    }
    let mut row = attempt.into_row(tx.now);
    row.message = penalty.to_string();
    let detail = json!({ "target": row.target_id, "attempt": row.number, "reason": row.reason });
    tx.event(
        "attempt.failed",
        Subject::Both(row.device_id.0, row.deployment_id.0),
        detail,
    );
    row
}
