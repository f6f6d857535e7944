//! What targets wait for. The facts about their devices and their deployment are read for all of
//! them together.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use kernex_proto::ids::{DeploymentId, DeviceId, TargetId};
use sea_orm::{ColumnTrait, EntityTrait, FromQueryResult, QueryFilter, QueryOrder, QuerySelect};

use crate::{
    domain::{
        attempt::State,
        rollout::DeploymentState,
        waiting::{WaitFacts, WaitReason, waits_for},
    },
    store::{
        db::{
            error::Result,
            sizes::{ID_CHUNK, padded},
            store::Store,
            values::parse_name,
        },
        entity::{attempt, deployment, device, stored::Stored},
        read::{
            attempts::is_unresolved,
            counts::{counts_by_phase, sum_of_phases},
            device_rows::away_of,
            phases::budgets,
        },
    },
};

/// What a target waits for, and more in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub reason: WaitReason,
    /// The budget, why the device is away, or the other deployment; empty for other reasons.
    pub detail: String,
}

/// A target that may wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WaitingTarget {
    pub(crate) target: Stored<TargetId>,
    /// Number of its latest attempt.
    pub(crate) number: i32,
    pub(crate) device: Stored<DeviceId>,
    pub(crate) phase: i32,
    pub(crate) state: State,
    /// Time alone holds it back.
    pub(crate) waits_for_time: bool,
}

struct KnownDevice {
    is_conflicted: bool,
    is_disk_sick: bool,
    is_online: bool,
    /// Why it is away, in words.
    away: String,
}

/// An attempt that is not over, in the queue of its device.
#[derive(FromQueryResult)]
struct Queued {
    target_id: Stored<TargetId>,
    number: i32,
    device_id: Stored<DeviceId>,
    bundle_name: String,
    deployment_id: Stored<DeploymentId>,
}

impl Store {
    /// What these targets of a deployment wait for, by target.
    pub(crate) async fn waiting(
        &self,
        row: &deployment::Model,
        targets: &[WaitingTarget],
    ) -> Result<HashMap<Stored<TargetId>, Waiting>> {
        let state = parse_name("state", &row.state, DeploymentState::parse)?;
        if targets.is_empty() {
            return Ok(HashMap::new());
        }
        let budgets: Vec<String> = budgets(row)?.into_iter().map(|it| it.label).collect();
        let is_full = match row.max_in_flight {
            Some(most) if targets.iter().any(|target| target.state == State::Held) => {
                let counts = counts_by_phase(self.reader(), &[row.id]).await?;
                let counts = counts.get(&row.id).map(sum_of_phases).unwrap_or_default();
                i64::from(counts.pending + counts.in_progress) >= most
            }
            _ => false,
        };
        // A held target waits whatever its device does.
        let opened: BTreeSet<Stored<DeviceId>> = targets
            .iter()
            .filter(|target| target.state != State::Held)
            .map(|target| target.device)
            .collect();
        let opened: Vec<Stored<DeviceId>> = opened.into_iter().collect();
        let devices = self.known_devices(&opened).await?;
        let ahead = self.ahead(row, &opened).await?;
        let mut found = HashMap::new();
        for target in targets {
            let device = devices.get(&target.device);
            let before = ahead.get(&(target.target, target.number));
            let facts = WaitFacts {
                state: target.state,
                deployment: state,
                is_phase_open: target.phase <= row.phase,
                is_full,
                has_budgets: !budgets.is_empty(),
                waits_for_time: target.waits_for_time,
                is_conflicted: device.is_some_and(|device| device.is_conflicted),
                is_online: device.is_some_and(|device| device.is_online),
                is_disk_sick: device.is_some_and(|device| device.is_disk_sick),
                is_behind: before.is_some(),
            };
            let Some(reason) = waits_for(&facts) else {
                continue;
            };
            let detail = match reason {
                WaitReason::Budget => budgets.join(", "),
                WaitReason::Device => device.map(|it| it.away.clone()).unwrap_or_default(),
                WaitReason::Deployment => before.map(ToString::to_string).unwrap_or_default(),
                WaitReason::Paused => row.paused_reason.clone(),
                WaitReason::Start
                | WaitReason::Phase
                | WaitReason::Approval
                | WaitReason::Room
                | WaitReason::Window
                | WaitReason::Conflict
                | WaitReason::Disk
                | WaitReason::Answer => String::new(),
            };
            found.insert(target.target, Waiting { reason, detail });
        }
        Ok(found)
    }

    async fn known_devices(
        &self,
        ids: &[Stored<DeviceId>],
    ) -> Result<HashMap<Stored<DeviceId>, KnownDevice>> {
        let mut known = HashMap::new();
        for chunk in ids.chunks(ID_CHUNK) {
            let online = self.online(self.reader(), chunk).await?;
            let rows = device::Entity::find()
                .filter(device::Column::Id.is_in(padded(chunk.iter().copied())))
                .all(self.reader())
                .await?;
            known.extend(rows.into_iter().map(|row| {
                let is_online = online.contains(&row.id);
                let device = KnownDevice {
                    is_conflicted: row.conflicted,
                    is_disk_sick: row.disk_fault.is_some(),
                    is_online,
                    away: match is_online {
                        true => String::new(),
                        false => away_of(&row).reason.to_string(),
                    },
                };
                (row.id, device)
            }));
        }
        Ok(known)
    }

    /// For each attempt behind another one in the queue of its device: the deployment of the first.
    async fn ahead(
        &self,
        row: &deployment::Model,
        ids: &[Stored<DeviceId>],
    ) -> Result<HashMap<(Stored<TargetId>, i32), Stored<DeploymentId>>> {
        let mut ahead = HashMap::new();
        for chunk in ids.chunks(ID_CHUNK) {
            let queued: Vec<Queued> = attempt::Entity::find()
                .select_only()
                .columns([
                    attempt::Column::TargetId,
                    attempt::Column::Number,
                    attempt::Column::DeviceId,
                    attempt::Column::BundleName,
                    attempt::Column::DeploymentId,
                ])
                .filter(is_unresolved())
                .filter(attempt::Column::BundleName.eq(row.bundle_name.as_str()))
                .filter(attempt::Column::DeviceId.is_in(padded(chunk.iter().copied())))
                .order_by_asc(attempt::Column::DeviceId)
                .order_by_asc(attempt::Column::Generation)
                .order_by_asc(attempt::Column::Number)
                .into_model()
                .all(self.reader())
                .await?;
            let mut heads = BTreeMap::<(Stored<DeviceId>, String), Stored<DeploymentId>>::new();
            for attempt in queued {
                let queue = (attempt.device_id, attempt.bundle_name);
                match heads.get(&queue) {
                    Some(head) => {
                        ahead.insert((attempt.target_id, attempt.number), *head);
                    }
                    None => {
                        heads.insert(queue, attempt.deployment_id);
                    }
                }
            }
        }
        Ok(ahead)
    }
}
