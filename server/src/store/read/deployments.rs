//! Deployments with all that is derived from their targets.

use std::time::Duration;

use kernex_proto::ids::{DeploymentId, DeviceId, Digest, TokenId};
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect,
};

use crate::{
    clock::Timestamp,
    domain::{
        attempt::State,
        rollout::{Counts, DeploymentResult, DeploymentState, Rollout},
        schedule::Schedule,
        selector::Selector,
    },
    store::{
        db::{
            error::{Result, not_found},
            page::{Page, Paged},
            transaction::Tx,
            values::{clean, digest, parse_name, unsigned},
        },
        entity::{deployment, phase, schedule, stored::Stored, target},
        read::{
            bundles::shown_bundle,
            commands::DueCommand,
            counts::{PhaseCounts, counts_by_phase, sum_of_phases},
            deployment_filter::DeploymentFilter,
            phases::{PhaseStatus, phases, rollout, statuses},
            schedules,
            scope::{Scope, View},
        },
    },
};

/// An operator's order and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployment {
    pub id: DeploymentId,
    /// "name:version"; only the name when a rollback returns devices to different versions.
    pub bundle: String,
    /// SHA-256 of the bundle; none when a rollback returns devices to different versions.
    pub digest: Option<Digest>,
    pub state: DeploymentState,
    pub result: Option<DeploymentResult>,
    /// Why it is paused, empty otherwise.
    pub paused_reason: String,
    /// Derived from the targets.
    pub counts: Counts,
    /// The name that its maker gave it, or empty.
    pub name: String,
    pub created_by: String,
    pub created_at: Timestamp,
    pub finished_at: Option<Timestamp>,
    /// Grows by one with each change of the deployment itself.
    pub revision: u64,
    /// How it proceeds; none when every target was opened at once.
    pub rollout: Option<Rollout>,
    /// Where its phases stand.
    pub phases: Vec<PhaseStatus>,
    /// Number of the newest open phase; 0 before the first and without phases.
    pub phase: u32,
    /// The deployment this one takes back.
    pub rolls_back: Option<DeploymentId>,
    /// Why it ended itself, empty otherwise.
    pub ended_reason: String,
    /// The newest deployment that takes this one back.
    pub rolled_back_by: Option<DeploymentId>,
    /// When its targets may begin; none when nothing delays them.
    pub schedule: Option<Schedule>,
    /// When they may begin next; none while they may.
    pub opens_at: Option<Timestamp>,
    /// Devices that come to match this selector are added.
    pub dynamic: Option<Selector>,
    /// What was ordered.
    pub order: Order,
}

/// What an order said, beside its bundle, rollout and schedule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Order {
    /// Empty when it had none.
    pub selector: String,
    /// How many devices it named one by one.
    pub named_devices: u32,
    /// What its maker noted.
    pub message: String,
    /// The address it came from; empty for the server itself.
    pub from: String,
    /// The operator token it was given with.
    pub token: Option<TokenId>,
    /// How long an attempt may wait for its device.
    pub delivery: Duration,
    /// How long an attempt may take once accepted.
    pub execution: Duration,
}

impl Deployment {
    /// The same, with the next instant at which its targets may begin.
    pub(crate) fn seen_at(mut self, now: Timestamp) -> Self {
        // Time holds back only what has not begun.
        let waits = self.counts.held + self.counts.pending > 0 || self.dynamic.is_some();
        let waits = waits && self.state != DeploymentState::Finished;
        let schedule = self.schedule.as_ref().filter(|_| waits);
        self.opens_at = schedule.and_then(|schedule| schedule.opens_at(now));
        self
    }
}

/// An order that was committed.
#[derive(Debug, Clone, PartialEq)]
pub struct CreatedDeployment {
    pub deployment: Deployment,
    /// The devices to wake.
    pub devices: Vec<DeviceId>,
    /// Commands that can be pushed at once. They equal what
    /// [`due_commands`](crate::store::Store::due_commands) would read.
    pub due: Vec<DueCommand>,
}

impl View {
    pub async fn get_deployment(&self, id: DeploymentId) -> Result<Deployment> {
        let row = deployment_row(self.reader(), self.scope, id).await?;
        let deployment = whole_deployment(self.reader(), row).await?;
        Ok(deployment.seen_at(self.store.now()))
    }

    /// Deployments that a filter takes, newest first.
    pub async fn list_deployments(
        &self,
        filter: &DeploymentFilter,
        page: Page,
    ) -> Result<Paged<Deployment>> {
        let mut query = filter
            .found(self.scope)
            .order_by_desc(deployment::Column::Id)
            .limit(page.limit() + 1);
        if let Some(after) = page.after_id("deployments")? {
            query = query.filter(deployment::Column::Id.lt(after));
        }
        let rows = query.all(self.reader()).await?;
        let paged = Paged::from_surplus(rows, page.limit(), "deployments", |row| row.id.bytes());
        Ok(Paged {
            items: self.whole_deployments(paged.items).await?,
            next: paged.next,
        })
    }

    /// How many deployments a filter takes.
    pub async fn count_deployments(&self, filter: &DeploymentFilter) -> Result<u64> {
        Ok(filter.found(self.scope).count(self.reader()).await?)
    }

    /// Adds what other tables have about these deployments, one query a table.
    pub(crate) async fn whole_deployments(
        &self,
        rows: Vec<deployment::Model>,
    ) -> Result<Vec<Deployment>> {
        let ids: Vec<Stored<DeploymentId>> = rows.iter().map(|row| row.id).collect();
        let mut counts = counts_by_phase(self.reader(), &ids).await?;
        let mut phases = phases(self.reader(), &ids).await?;
        let mut schedules = schedules::rows_of(self.reader(), &ids).await?;
        let now = self.store.now();
        let whole = rows.into_iter().map(|row| {
            let counts = counts.remove(&row.id).unwrap_or_default();
            let phases = phases.remove(&row.id).unwrap_or_default();
            let schedule = schedules.remove(&row.id);
            Ok(deployment_from(row, &phases, &counts, schedule.as_ref())?.seen_at(now))
        });
        whole.collect()
    }
}

pub(crate) async fn created_deployment(tx: &Tx, id: DeploymentId) -> Result<CreatedDeployment> {
    Ok(CreatedDeployment {
        deployment: find_deployment(&tx.db, id).await?,
        devices: devices_of(tx, id).await?,
        due: Vec::new(),
    })
}

/// The deployment of this name. An empty name names none.
pub(crate) async fn id_by_name<C: ConnectionTrait>(
    db: &C,
    name: &str,
) -> Result<Option<DeploymentId>> {
    if name.is_empty() {
        return Ok(None);
    }
    let row = deployment::Entity::find()
        .filter(deployment::Column::Name.eq(clean(name)))
        .one(db)
        .await?;
    Ok(row.map(|row| row.id.0))
}

/// Every device of a deployment.
pub(crate) async fn devices_of(tx: &Tx, deployment: DeploymentId) -> Result<Vec<DeviceId>> {
    let ids = target::Entity::find()
        .select_only()
        .column(target::Column::DeviceId)
        .filter(target::Column::DeploymentId.eq(deployment.0))
        .into_tuple::<Stored<DeviceId>>()
        .all(&tx.db)
        .await?;
    Ok(ids.into_iter().map(|id| id.0).collect())
}

/// The row of a deployment that somebody asks for.
pub(crate) async fn deployment_row<C: ConnectionTrait>(
    db: &C,
    scope: Scope,
    id: DeploymentId,
) -> Result<deployment::Model> {
    let row = scope
        .rows::<deployment::Entity>()
        .filter(deployment::Column::Id.eq(id.0))
        .one(db)
        .await?;
    row.ok_or_else(|| not_found("deployment", id))
}

/// A deployment that was found before.
pub(crate) async fn find_deployment<C: ConnectionTrait>(
    db: &C,
    id: DeploymentId,
) -> Result<Deployment> {
    let row = deployment_row(db, Scope::Everything, id).await?;
    whole_deployment(db, row).await
}

/// Adds what other tables have about a deployment.
async fn whole_deployment<C: ConnectionTrait>(
    db: &C,
    row: deployment::Model,
) -> Result<Deployment> {
    let id = row.id.0;
    let counts = counts_by_phase(db, &[Stored(id)])
        .await?
        .remove(&Stored(id));
    let phases = if row.phase_count == 0 {
        Vec::new()
    } else {
        phases(db, &[Stored(id)])
            .await?
            .remove(&Stored(id))
            .unwrap_or_default()
    };
    let schedule = schedules::find(db, id).await?;
    deployment_from(row, &phases, &counts.unwrap_or_default(), schedule.as_ref())
}

/// A new deployment whose targets are all open. It equals what would be read.
pub(crate) fn all_targets_open(row: deployment::Model, targets: usize) -> Result<Deployment> {
    let mut counts = Counts::default();
    counts.add(State::Pending, u32::try_from(targets).unwrap_or(u32::MAX));
    deployment_from(row, &[], &PhaseCounts::from([(0, counts)]), None)
}

fn deployment_from(
    row: deployment::Model,
    phases: &[phase::Model],
    counts: &PhaseCounts,
    schedule: Option<&schedule::Model>,
) -> Result<Deployment> {
    let terms = schedule.map(schedules::from_row).transpose()?;
    let (schedule, dynamic) = match terms {
        Some(terms) => (Some(terms.schedule), terms.dynamic),
        None => (None, None),
    };
    let state = parse_name("state", &row.state, DeploymentState::parse)?;
    let rollout = (row.phase_count > 0)
        .then(|| rollout(&row, phases))
        .transpose()?;
    Ok(Deployment {
        order: Order {
            selector: row.selector,
            named_devices: u32::try_from(row.named_devices).unwrap_or(u32::MAX),
            message: row.message,
            from: row.created_from.unwrap_or_default(),
            token: row.token_id.map(|id| id.0),
            delivery: Duration::from_micros(unsigned(row.delivery_us)),
            execution: Duration::from_micros(unsigned(row.execution_us)),
        },
        schedule: schedule.filter(|schedule| *schedule != Schedule::default()),
        opens_at: None,
        dynamic,
        rollout,
        phases: statuses(phases, counts),
        phase: u32::try_from(row.phase).unwrap_or(0),
        counts: sum_of_phases(counts),
        id: row.id.0,
        digest: Some(row.digest.as_str())
            .filter(|text| !text.is_empty())
            .map(digest)
            .transpose()?,
        bundle: shown_bundle(row.bundle_name, &row.bundle_version),
        rolls_back: row.rolls_back.map(|id| id.0),
        rolled_back_by: row.rolled_back_by.map(|id| id.0),
        ended_reason: row.ended_reason,
        state,
        result: row
            .result
            .map(|text| parse_name("result", &text, DeploymentResult::parse))
            .transpose()?,
        name: row.name,
        // The row keeps the reason after the pause is over.
        paused_reason: match state {
            DeploymentState::Paused => row.paused_reason,
            _ => String::new(),
        },
        created_by: row.created_by,
        created_at: Timestamp(row.created_at),
        finished_at: row.finished_at.map(Timestamp),
        revision: unsigned(row.revision),
    })
}
