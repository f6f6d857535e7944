//! Creates a deployment. One order becomes a target and an attempt for each device, in one
//! transaction.

use kernex_proto::ids::{DeploymentId, DeviceId};
use serde_json::json;

use crate::{
    crash::Act,
    domain::{
        rollout::{DeploymentState, Rollout},
        schedule::Schedule,
    },
    store::{
        db::{
            error::{Result, StoreError},
            new_event::Subject,
            sizes::insert_all,
            store::OperatorStore,
            transaction::Deciding,
        },
        entity::{deployment, stored::Stored},
        read::{
            bundles::find_signed_bundle,
            commands,
            deployments::{
                CreatedDeployment, all_targets_open, created_deployment, find_deployment,
                id_by_name,
            },
            new_deployment::NewDeployment,
            selected_devices::select_devices,
        },
        write::{
            advance,
            audit::audit,
            finish::finish_deployments,
            insert_phases::insert_phases,
            insert_schedule,
            insert_targets::{deployment_of, insert_targets},
            replay::{Caller, remember, replayed},
            supersede::supersede,
        },
    },
};

impl OperatorStore {
    /// Commits a deployment. A repeated request id gets the same deployment again, with its
    /// devices.
    pub async fn create_deployment(
        &self,
        caller: &Caller,
        new: NewDeployment,
    ) -> Result<CreatedDeployment> {
        let db = &self.0;
        let new = &new;
        let mut created = db
            .decide_as(Act::CommitDeployment, |tx| async move {
                if let Some(id) = replayed::<Stored<DeploymentId>>(&tx, caller).await? {
                    return created_deployment(&tx, id.0).await;
                }
                let created = fan_out(&tx, caller, new).await?;
                remember(&tx, caller, &Stored(created.deployment.id)).await?;
                Ok(created)
            })
            .await?;
        created.deployment = created.deployment.seen_at(db.now());
        Ok(created)
    }
}

/// Inserts the deployment with its targets and attempts, and closes what it supersedes.
pub(crate) async fn fan_out(
    tx: &Deciding,
    caller: &Caller,
    new: &NewDeployment,
) -> Result<CreatedDeployment> {
    if let Some(other) = id_by_name(&tx.db, &new.terms.name).await? {
        return Err(StoreError::AlreadyExists {
            kind: "deployment",
            id: new.terms.name.clone(),
            why: format!(": it is {other}"),
        });
    }
    let (bundle, signatures) = find_signed_bundle(&tx.db, caller.scope, &new.bundle).await?;
    let devices = select_devices(&tx.db, caller.scope, new, &bundle).await?;
    if devices.is_empty() && new.terms.dynamic.is_none() {
        return Err(StoreError::NoTargets);
    }
    let schedule = new.terms.schedule_at(tx.now, new.delivery)?;
    let waits = schedule.start.is_some_and(|start| start > tx.now);
    // Targets that wait for the start are held. The planner opens them.
    let rollout = new
        .rollout
        .clone()
        .or_else(|| waits.then(Rollout::together));
    let ids: Vec<Stored<DeviceId>> = devices.keys().copied().collect();
    let may_be_busy = devices.values().filter(|device| device.may_be_busy);
    let may_be_busy: Vec<Stored<DeviceId>> = may_be_busy.map(|device| device.id).collect();
    let busy = supersede(tx, &may_be_busy, &bundle.name).await?;
    let mut row = deployment_of(tx, caller, new, &bundle, rollout.as_ref());
    if waits {
        row.state = DeploymentState::Scheduled.as_str().to_owned();
    }
    let id = row.id.0;
    let devices_in_order = || devices.keys().map(|device| device.0);
    let places = rollout
        .iter()
        .flat_map(|rollout| rollout.places(id, devices_in_order()))
        .map(|(device, place)| (Stored(device), place))
        .collect();
    insert_all::<deployment::Entity>(&tx.db, vec![row.clone()], None).await?;
    if let Some(rollout) = &rollout {
        insert_phases(tx, id, rollout).await?;
    }
    insert_schedule::insert(tx, id, &new.terms, &schedule).await?;
    let inserted = insert_targets(tx, &row, new.terms.penalty_after, &devices, &places).await?;
    let detail = json!({ "bundle": format!("{}:{}", bundle.name, bundle.version), "devices": devices.len() });
    audit(tx, caller, id, detail.clone()).await?;
    tx.event(
        "deployment.created",
        Subject::Deployment(id),
        caller.made(detail),
    );
    let is_plain = inserted.penalised == 0
        && rollout.is_none()
        && schedule == Schedule::default()
        && new.terms.dynamic.is_none();
    let mut due = Vec::new();
    let deployment = if is_plain {
        let waiting = inserted.targets.into_iter().filter(|(device, _)| {
            let conflicted = devices
                .get(&Stored(*device))
                .is_none_or(|row| row.conflicted);
            !conflicted && !busy.contains(&Stored(*device))
        });
        // A later decision about these attempts reads their rows after this commit.
        let read = tx.decision().moment();
        due = commands::of_open_targets(&row, &bundle, &signatures, waiting, read)?;
        all_targets_open(row, ids.len())?
    } else {
        // Targets that may begin at once are opened in the same transaction.
        advance::advance_deployment(tx, id).await?;
        if inserted.penalised > 0 {
            finish_deployments(tx, [id].into()).await?;
        }
        find_deployment(&tx.db, id).await?
    };
    Ok(CreatedDeployment {
        deployment,
        devices: ids.into_iter().map(|id| id.0).collect(),
        due,
    })
}
