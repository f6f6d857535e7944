//! Adds devices to deployments that accept more of them. A device that enrols, gets labels or
//! reports something new is matched in the same transaction, so that no device is missed.
//!
//! A device joins the current phase. It joins no paused deployment; it is matched again when that
//! is resumed. It joins no deployment either that a newer one of the same bundle name has overtaken
//! on this device.

use std::collections::BTreeMap;

use kernex_proto::ids::{DeploymentId, DeviceId};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use serde_json::json;

use crate::{
    domain::rollout::{TargetPlace, rank},
    store::{
        db::{error::Result, new_event::Subject, sizes::ID_CHUNK, transaction::Deciding},
        entity::{device, stored::Stored},
        read::{
            dynamic::{DynamicDeployment, accepting_devices, already_targeted},
            schedules,
            selected_devices::SelectedDevice,
            selectors::{candidates, matching},
        },
        write::{
            advance::advance_deployment, finish::finish_deployments,
            insert_targets::insert_targets, supersede::supersede,
        },
    },
};

/// Rows read at a time while a whole fleet is matched.
const SCAN: u64 = 1_000;

/// Adds devices to the deployments that match them by now.
pub(crate) async fn join_deployments(tx: &Deciding, devices: &[DeviceId]) -> Result<()> {
    let dynamic = accepting_devices(tx, None).await?;
    if dynamic.is_empty() {
        return Ok(());
    }
    for chunk in devices.chunks(ID_CHUNK) {
        let rows = device::Entity::find()
            .filter(device::Column::Id.is_in(chunk.iter().map(|device| device.0)))
            .all(&tx.db)
            .await?;
        for dynamic in &dynamic {
            add_targets(tx, dynamic, rows.clone()).await?;
        }
    }
    Ok(())
}

/// Adds the devices that began to match a deployment while it accepted none.
pub(crate) async fn join_every_device(tx: &Deciding, deployment: DeploymentId) -> Result<()> {
    let Some(dynamic) = accepting_devices(tx, Some(deployment)).await?.pop() else {
        return Ok(());
    };
    let Some(selector) = schedules::from_row(&dynamic.1)?.dynamic else {
        return Ok(());
    };
    let mut after = Stored::nil();
    loop {
        let rows = candidates(device::Entity::find(), &selector)
            .filter(device::Column::Id.gt(after))
            .order_by_asc(device::Column::Id)
            .limit(SCAN)
            .all(&tx.db)
            .await?;
        let Some(last) = rows.last() else {
            return Ok(());
        };
        after = last.id;
        add_targets(tx, &dynamic, rows).await?;
    }
}

/// Adds those of these devices that match a deployment and were never part of it, to its current
/// phase.
async fn add_targets(
    tx: &Deciding,
    (row, terms): &DynamicDeployment,
    devices: Vec<device::Model>,
) -> Result<()> {
    let terms = schedules::from_row(terms)?;
    let Some(selector) = &terms.dynamic else {
        return Ok(());
    };
    let mut joining: BTreeMap<Stored<DeviceId>, SelectedDevice> =
        matching(&tx.db, selector, devices)
            .await?
            .into_iter()
            .map(|(device, _)| (device.id, device.into()))
            .collect();
    let taken = already_targeted(tx, row, &joining).await?;
    joining.retain(|id, _| !taken.contains(id));
    if joining.is_empty() {
        return Ok(());
    }
    let ids: Vec<Stored<DeviceId>> = joining.keys().copied().collect();
    supersede(tx, &ids, &row.bundle_name).await?;
    // The first phase when none is open yet.
    let phase = if row.phase_count > 0 {
        Ord::max(u32::try_from(row.phase).unwrap_or(0), 1)
    } else {
        0
    };
    let place = |device: &Stored<DeviceId>| TargetPlace {
        rank: rank(row.id.0, device.0),
        phase,
    };
    let places = ids.iter().map(|id| (*id, place(id))).collect();
    insert_targets(tx, row, terms.penalty_after, &joining, &places).await?;
    for device in joining.values() {
        let detail = json!({ "name": device.name });
        tx.event(
            "deployment.joined",
            Subject::Both(device.id.0, row.id.0),
            detail,
        );
    }
    advance_deployment(tx, row.id.0).await?;
    finish_deployments(tx, [row.id.0].into()).await
}
