//! `DeploymentService`: creates deployments, which are rows and a wake-up, and lets callers watch,
//! cancel and roll back.

mod watch;

use std::{collections::HashSet, sync::Arc};

use kernex_proto::{
    telemetry,
    v1::{
        CancelDeploymentRequest, CancelDeploymentResponse, CreateDeploymentRequest,
        CreateDeploymentResponse, GetDeploymentRequest, GetDeploymentResponse, GetTargetRequest,
        GetTargetResponse, ListDeploymentsRequest, ListDeploymentsResponse, ListTargetsRequest,
        ListTargetsResponse, RollbackDeploymentRequest, RollbackDeploymentResponse,
        WatchDeploymentRequest, WatchDeploymentResponse,
        deployment_service_server::DeploymentService,
    },
};
use tonic::{Request, Response, Status};

use super::{
    Api,
    wire::{
        deployment::{DELIVERY, EXECUTION, note, order},
        fields::{id, page, seconds},
        filter::{deployment_filter, target_filter},
        fitting::{fitting_page, total},
    },
};
use crate::{
    edge::{
        answers::{FEW, Fed},
        auth::caller,
    },
    store::NewRollback,
};

#[derive(Debug)]
pub struct Deployments(pub(super) Arc<Api>);

#[tonic::async_trait]
impl DeploymentService for Deployments {
    async fn create_deployment(
        &self,
        request: Request<CreateDeploymentRequest>,
    ) -> Result<Response<CreateDeploymentResponse>, Status> {
        let caller = caller(&request, "CreateDeployment", &request.get_ref().request_id)?;
        let traceparent = traceparent(request.metadata());
        let new = order(
            request.into_inner(),
            traceparent,
            self.0.settings.penalty_after,
        )?;
        let created = self.0.store.create_deployment(&caller, new).await?;
        let pushed: HashSet<_> = created.due.iter().map(|due| due.device).collect();
        let others = created.devices.into_iter();
        let others = others.filter(|device| !pushed.contains(device));
        self.0.wake_ups.push_fresh(created.due);
        self.0.wake_ups.wake_devices(others);
        if created.deployment.rollout.is_some() {
            self.0.wake_ups.wake_rollouts();
        }
        // The devices get their commands before the caller gets the answer.
        tokio::task::yield_now().await;
        Ok(Response::new(CreateDeploymentResponse {
            deployment: Some(created.deployment.into()),
        }))
    }

    async fn get_deployment(
        &self,
        request: Request<GetDeploymentRequest>,
    ) -> Result<Response<GetDeploymentResponse>, Status> {
        let id = id("deployment_id", &request.get_ref().deployment_id)?;
        let deployment = self.0.view(&request)?.get_deployment(id).await?;
        Ok(Response::new(GetDeploymentResponse {
            deployment: Some(deployment.into()),
        }))
    }

    async fn list_deployments(
        &self,
        request: Request<ListDeploymentsRequest>,
    ) -> Result<Response<ListDeploymentsResponse>, Status> {
        let view = self.0.view(&request)?;
        let request = request.into_inner();
        let page = page(request.page_size, request.page_token)?;
        let filter = deployment_filter(request.filter)?;
        let (deployments, next_page_token) =
            fitting_page(page, |page| view.list_deployments(&filter, page)).await?;
        let total = total(request.count, view.count_deployments(&filter)).await?;
        Ok(Response::new(ListDeploymentsResponse {
            deployments,
            next_page_token,
            total,
        }))
    }

    async fn list_targets(
        &self,
        request: Request<ListTargetsRequest>,
    ) -> Result<Response<ListTargetsResponse>, Status> {
        let view = self.0.view(&request)?;
        let request = request.into_inner();
        let id = id("deployment_id", &request.deployment_id)?;
        let page = page(request.page_size, request.page_token)?;
        let filter = target_filter(request.filter)?;
        let (targets, next_page_token) =
            fitting_page(page, |page| view.list_targets(id, &filter, page)).await?;
        let total = total(request.count, view.count_targets(id, &filter)).await?;
        Ok(Response::new(ListTargetsResponse {
            targets,
            next_page_token,
            total,
        }))
    }

    async fn get_target(
        &self,
        request: Request<GetTargetRequest>,
    ) -> Result<Response<GetTargetResponse>, Status> {
        let view = self.0.view(&request)?;
        let request = request.into_inner();
        let deployment = match request.deployment_id.as_str() {
            "" => None,
            text => Some(id("deployment_id", text)?),
        };
        let target = view.get_target(&request.device, deployment).await?;
        Ok(Response::new(GetTargetResponse {
            target: Some(target.into()),
        }))
    }

    type WatchDeploymentStream = Fed<WatchDeploymentResponse>;

    async fn watch_deployment(
        &self,
        request: Request<WatchDeploymentRequest>,
    ) -> Result<Response<Self::WatchDeploymentStream>, Status> {
        let id = id("deployment_id", &request.get_ref().deployment_id)?;
        let answers = watch::follow(
            self.0.view(&request)?,
            id,
            self.0.feed.watcher_permit()?,
            self.0.draining.clone(),
        )
        .await?;
        Ok(super::watch(&self.0.metrics, FEW, answers))
    }

    async fn cancel_deployment(
        &self,
        request: Request<CancelDeploymentRequest>,
    ) -> Result<Response<CancelDeploymentResponse>, Status> {
        let caller = caller(&request, "CancelDeployment", &request.get_ref().request_id)?;
        let id = id("deployment_id", &request.get_ref().deployment_id)?;
        let (deployment, devices) = self.0.store.cancel_deployment(&caller, id).await?;
        self.0.wake_ups.wake_devices(devices);
        self.0.wake_ups.wake_rollouts();
        Ok(Response::new(CancelDeploymentResponse {
            deployment: Some(deployment.into()),
        }))
    }

    async fn rollback_deployment(
        &self,
        request: Request<RollbackDeploymentRequest>,
    ) -> Result<Response<RollbackDeploymentResponse>, Status> {
        let caller = caller(
            &request,
            "RollbackDeployment",
            &request.get_ref().request_id,
        )?;
        let view = self.0.view(&request)?;
        let traceparent = traceparent(request.metadata());
        let request = request.into_inner();
        let new = NewRollback {
            deployment: id("deployment_id", &request.deployment_id)?,
            delivery: seconds(
                "delivery_timeout_seconds",
                request.delivery_timeout_seconds,
                DELIVERY,
            )?,
            execution: seconds(
                "execution_timeout_seconds",
                request.execution_timeout_seconds,
                EXECUTION,
            )?,
            traceparent,
            message: note(request.message)?,
        };
        if request.plan {
            let steps = view.plan_rollback(new.deployment).await?;
            return Ok(Response::new(RollbackDeploymentResponse {
                deployment: None,
                steps: steps.into_iter().map(Into::into).collect(),
            }));
        }
        let rolled = self.0.store.roll_back(&caller, new).await?;
        let created = rolled.created;
        self.0.wake_ups.wake_devices(rolled.stopped);
        self.0.wake_ups.wake_devices(created.devices);
        Ok(Response::new(RollbackDeploymentResponse {
            deployment: Some(created.deployment.into()),
            steps: rolled.steps.into_iter().map(Into::into).collect(),
        }))
    }
}

/// The trace context that a deployment belongs to. Without an exporter here it is the caller's,
/// unchanged.
fn traceparent(metadata: &tonic::metadata::MetadataMap) -> String {
    let here = telemetry::current_traceparent();
    if here.is_empty() {
        telemetry::extract(metadata)
    } else {
        here
    }
}
