//! Plans what each device of a deployment goes back to. The number of statements does not grow with
//! the fleet.

use std::collections::{BTreeMap, BTreeSet};

use kernex_proto::ids::{DeploymentId, DeviceId, TargetId};
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect,
    sea_query::{Expr, ExprTrait, Query, TableRef},
};

use crate::{
    domain::{
        attempt::State,
        rollback::{RollbackFacts, RollbackVerdict, may_return},
    },
    store::{
        db::{error::Result, sizes::ID_CHUNK, values::digest},
        entity::{attempt, bundle, deployment, device, device_release, stored::Stored, target},
        read::{attempts::state, deployments::deployment_row, joined::is_of_target, scope::View},
    },
};

/// What a rollback does with one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RollbackTarget {
    pub device: DeviceId,
    /// Its name when the deployment was made.
    pub device_name: String,
    /// What is done with it, or why nothing is.
    pub verdict: RollbackVerdict,
    /// "name:version" it goes back to.
    pub bundle: Option<String>,
}

impl View {
    /// What a rollback would do.
    pub async fn plan_rollback(&self, id: DeploymentId) -> Result<Vec<RollbackTarget>> {
        let row = deployment_row(self.reader(), self.scope, id).await?;
        let planned = plan(self.reader(), &row).await?;
        Ok(planned.iter().map(rollback_target).collect())
    }
}

pub(crate) fn rollback_target(planned: &PlannedTarget) -> RollbackTarget {
    let bundle = planned.bundle.as_ref();
    RollbackTarget {
        device: planned.target.device_id.0,
        device_name: planned.target.device_name.clone(),
        verdict: planned.verdict,
        bundle: bundle.map(|bundle| format!("{}:{}", bundle.name, bundle.version)),
    }
}

/// A target of the deployment that is taken back, with the bundle its device goes back to.
pub(crate) struct PlannedTarget {
    pub(crate) target: target::Model,
    pub(crate) device: Option<device::Model>,
    pub(crate) verdict: RollbackVerdict,
    pub(crate) bundle: Option<bundle::Model>,
}

/// Decides for each target of a deployment, by device name.
pub(crate) async fn plan<C: ConnectionTrait>(
    db: &C,
    row: &deployment::Model,
) -> Result<Vec<PlannedTarget>> {
    let targets = target::Entity::find()
        .filter(target::Column::DeploymentId.eq(row.id))
        .order_by_asc(target::Column::DeviceName)
        .order_by_asc(target::Column::Id)
        .all(db)
        .await?;
    let attempts = attempts_of(db, row.id).await?;
    let mut bundles = BTreeMap::new();
    let named = bundle::Column::Name.eq(&row.bundle_name);
    let oldest_last = bundle::Entity::find()
        .filter(named)
        .order_by_desc(bundle::Column::Id);
    for bundle in oldest_last.all(db).await? {
        bundles.insert(bundle.digest.clone(), bundle);
    }
    let mut planned = Vec::with_capacity(targets.len());
    for chunk in targets.chunks(ID_CHUNK) {
        let ids: Vec<Stored<DeviceId>> = chunk.iter().map(|target| target.device_id).collect();
        let mut devices = devices(db, &ids).await?;
        let runs = running_releases(db, &row.bundle_name, &ids).await?;
        let proven = succeeded_digests(db, &row.bundle_name, &ids).await?;
        for target in chunk {
            let device = devices.remove(&target.device_id);
            let tries = attempts.get(&target.id).map_or(&[][..], Vec::as_slice);
            let runs = runs.get(&target.device_id);
            let facts = facts(target, tries, runs, device.is_some())?;
            let (verdict, bundle) = match facts.destination() {
                Err(verdict) => (verdict, None),
                Ok(to) => {
                    let to = to.to_string();
                    let bundle = bundles.get(&to);
                    let known = proven.contains(&(target.device_id, to));
                    match may_return(known, bundle.is_some()) {
                        RollbackVerdict::GoBack => (RollbackVerdict::GoBack, bundle.cloned()),
                        verdict => (verdict, None),
                    }
                }
            };
            planned.push(PlannedTarget {
                target: target.clone(),
                device,
                verdict,
                bundle,
            });
        }
    }
    Ok(planned)
}

/// What the rules look at, from the tries of a target, oldest first.
fn facts(
    target: &target::Model,
    tries: &[AttemptRow],
    runs: Option<&device_release::Model>,
    exists: bool,
) -> Result<RollbackFacts> {
    let effective = tries
        .iter()
        .find(|one| one.active_digest.as_deref() == Some(&target.digest));
    let latest = tries.last();
    let before = match effective.and_then(|one| one.previous_digest.as_deref()) {
        Some(text) => text,
        // Older rows do not say what ran before.
        None => runs.map_or("", |runs| &runs.previous_digest),
    };
    let succeeded = State::Succeeded.as_str();
    let is_success = |one: &AttemptRow| {
        one.active_digest.is_none()
            && (one.state == succeeded || one.late_state.as_deref() == Some(succeeded))
    };
    let text = |text: &str| (!text.is_empty()).then(|| digest(text)).transpose();
    Ok(RollbackFacts {
        exists,
        state: latest.map_or(Ok(State::Pending), |one| state(&one.state))?,
        unresolved: latest.is_some_and(|one| one.unresolved),
        wanted: digest(&target.digest)?,
        took_effect: effective.is_some() || tries.iter().any(is_success),
        before: text(before)?,
        runs: runs.map(|runs| digest(&runs.digest)).transpose()?,
    })
}

/// The columns of an attempt that matter here. Its output may be long, and is not read.
#[derive(sea_orm::FromQueryResult)]
struct AttemptRow {
    target_id: Stored<TargetId>,
    state: String,
    late_state: Option<String>,
    unresolved: bool,
    active_digest: Option<String>,
    previous_digest: Option<String>,
}

/// The tries of each target, oldest first.
async fn attempts_of<C: ConnectionTrait>(
    db: &C,
    deployment: Stored<DeploymentId>,
) -> Result<BTreeMap<Stored<TargetId>, Vec<AttemptRow>>> {
    let rows = attempt::Entity::find()
        .select_only()
        .columns([
            attempt::Column::TargetId,
            attempt::Column::State,
            attempt::Column::LateState,
            attempt::Column::Unresolved,
            attempt::Column::ActiveDigest,
            attempt::Column::PreviousDigest,
        ])
        .filter(attempt::Column::DeploymentId.eq(deployment))
        .order_by_asc(attempt::Column::Number)
        .into_model::<AttemptRow>()
        .all(db)
        .await?;
    let mut tries = BTreeMap::<Stored<TargetId>, Vec<AttemptRow>>::new();
    for row in rows {
        tries.entry(row.target_id).or_default().push(row);
    }
    Ok(tries)
}

async fn devices<C: ConnectionTrait>(
    db: &C,
    ids: &[Stored<DeviceId>],
) -> Result<BTreeMap<Stored<DeviceId>, device::Model>> {
    let rows = device::Entity::find()
        .filter(device::Column::Id.is_in(ids.iter().copied()))
        .all(db)
        .await?;
    Ok(rows.into_iter().map(|row| (row.id, row)).collect())
}

/// What these devices are known to run under a name.
async fn running_releases<C: ConnectionTrait>(
    db: &C,
    name: &str,
    ids: &[Stored<DeviceId>],
) -> Result<BTreeMap<Stored<DeviceId>, device_release::Model>> {
    let rows = device_release::Entity::find()
        .filter(device_release::Column::Name.eq(name))
        .filter(device_release::Column::DeviceId.is_in(ids.iter().copied()))
        .all(db)
        .await?;
    Ok(rows.into_iter().map(|row| (row.device_id, row)).collect())
}

/// Which digests of a name have succeeded on these devices.
async fn succeeded_digests<C: ConnectionTrait>(
    db: &C,
    name: &str,
    ids: &[Stored<DeviceId>],
) -> Result<BTreeSet<(Stored<DeviceId>, String)>> {
    let succeeded = State::Succeeded.as_str();
    let query = Query::select()
        .distinct()
        .column(("t", target::Column::DeviceId))
        .column(("t", target::Column::Digest))
        .from_as(target::Entity, "t")
        .inner_join(TableRef::from(attempt::Entity).alias("a"), is_of_target())
        .and_where(Expr::col(("t", target::Column::DeviceId)).is_in(ids.iter().copied()))
        .and_where(Expr::col(("t", target::Column::BundleName)).eq(name))
        .and_where(
            Expr::col(("a", attempt::Column::State))
                .eq(succeeded)
                .or(Expr::col(("a", attempt::Column::LateState)).eq(succeeded)),
        )
        .to_owned();
    let mut proven = BTreeSet::new();
    for row in db.query_all(&query).await? {
        proven.insert((row.try_get("", "device_id")?, row.try_get("", "digest")?));
    }
    Ok(proven)
}
