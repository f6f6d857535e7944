//! `RolloutService`: an operator's hand on a deployment that goes on.

mod halt;

use std::sync::Arc;

use kernex_proto::{
    ids::DeviceId,
    v1::{
        HaltDeploymentRequest, HaltDeploymentResponse, PauseDeploymentRequest,
        PauseDeploymentResponse, PromoteDeploymentRequest, PromoteDeploymentResponse,
        ResumeDeploymentRequest, ResumeDeploymentResponse, RetryDeploymentRequest,
        RetryDeploymentResponse, rollout_service_server::RolloutService,
    },
};
use tonic::{Request, Response, Status};

use super::{Api, wire::fields::id};
use crate::edge::{
    answers::{FEW, Fed, fed},
    auth::caller,
};

/// Most devices one retry names.
const MOST_NAMED: usize = 10_000;

#[derive(Debug)]
pub struct Rollouts(pub(super) Arc<Api>);

impl Rollouts {
    /// Wakes the devices of a deployment and the planner.
    fn wake(&self, devices: Vec<DeviceId>) {
        self.0.wake_ups.wake_devices(devices);
        self.0.wake_ups.wake_rollouts();
    }
}

#[tonic::async_trait]
impl RolloutService for Rollouts {
    async fn pause_deployment(
        &self,
        request: Request<PauseDeploymentRequest>,
    ) -> Result<Response<PauseDeploymentResponse>, Status> {
        let caller = caller(&request, "PauseDeployment", &request.get_ref().request_id)?;
        let request = request.into_inner();
        let id = id("deployment_id", &request.deployment_id)?;
        let store = &self.0.store;
        let deployment = store.pause_deployment(&caller, id, &request.reason).await?;
        self.wake(Vec::new());
        Ok(Response::new(PauseDeploymentResponse {
            deployment: Some(deployment.into()),
        }))
    }

    async fn resume_deployment(
        &self,
        request: Request<ResumeDeploymentRequest>,
    ) -> Result<Response<ResumeDeploymentResponse>, Status> {
        let caller = caller(&request, "ResumeDeployment", &request.get_ref().request_id)?;
        let id = id("deployment_id", &request.get_ref().deployment_id)?;
        let (deployment, devices) = self.0.store.resume_deployment(&caller, id).await?;
        self.wake(devices);
        Ok(Response::new(ResumeDeploymentResponse {
            deployment: Some(deployment.into()),
        }))
    }

    async fn promote_deployment(
        &self,
        request: Request<PromoteDeploymentRequest>,
    ) -> Result<Response<PromoteDeploymentResponse>, Status> {
        let caller = caller(&request, "PromoteDeployment", &request.get_ref().request_id)?;
        let request = request.into_inner();
        let id = id("deployment_id", &request.deployment_id)?;
        let wanted = (request.phase > 0).then_some(request.phase);
        let store = &self.0.store;
        let (deployment, devices) = store.promote_deployment(&caller, id, wanted).await?;
        self.wake(devices);
        Ok(Response::new(PromoteDeploymentResponse {
            deployment: Some(deployment.into()),
        }))
    }

    async fn retry_deployment(
        &self,
        request: Request<RetryDeploymentRequest>,
    ) -> Result<Response<RetryDeploymentResponse>, Status> {
        let caller = caller(&request, "RetryDeployment", &request.get_ref().request_id)?;
        let request = request.into_inner();
        let id = id("deployment_id", &request.deployment_id)?;
        if request.devices.len() > MOST_NAMED {
            let why =
                format!("at most {MOST_NAMED} can be named; name none to retry every failed one");
            return Err(crate::error::invalid("devices", why));
        }
        let store = &self.0.store;
        let done = store
            .retry_deployment(&caller, id, &request.devices)
            .await?;
        self.wake(done.devices);
        Ok(Response::new(RetryDeploymentResponse {
            deployment: Some(done.deployment.into()),
            retried: done.retried,
            left_out: done.left_out,
        }))
    }

    type HaltDeploymentStream = Fed<HaltDeploymentResponse>;

    async fn halt_deployment(
        &self,
        request: Request<HaltDeploymentRequest>,
    ) -> Result<Response<Self::HaltDeploymentStream>, Status> {
        let caller = caller(&request, "HaltDeployment", &request.get_ref().request_id)?;
        let id = id("deployment_id", &request.get_ref().deployment_id)?;
        // Subscribed before the halt, so that no answer of a device is missed.
        let view = self.0.view(&request)?;
        let changes = view.changes();
        let (_, devices) = self.0.store.halt_deployment(&caller, id).await?;
        self.wake(devices);
        let answers = halt::follow(view, id, changes, self.0.draining.clone());
        Ok(fed(FEW, answers))
    }
}
