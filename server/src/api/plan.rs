//! `PlanService`: what a deployment would meet.

use std::sync::Arc;

use kernex_proto::{
    telemetry,
    v1::{PlanDeploymentRequest, PlanDeploymentResponse, plan_service_server::PlanService},
};
use tonic::{Request, Response, Status};

use super::{Api, wire::deployment::order};
use crate::{clock::Timestamp, error::invalid, preflight};

#[derive(Debug)]
pub struct Plans(pub(super) Arc<Api>);

#[tonic::async_trait]
impl PlanService for Plans {
    async fn plan_deployment(
        &self,
        request: Request<PlanDeploymentRequest>,
    ) -> Result<Response<PlanDeploymentResponse>, Status> {
        let view = self.0.view(&request)?;
        let wanted = request.into_inner().deployment;
        let wanted = wanted.ok_or_else(|| invalid("deployment", "it is missing"))?;
        let new = order(
            wanted,
            telemetry::current_traceparent(),
            self.0.settings.penalty_after,
        )?;
        let planning = view.planning(&new).await?;
        let bundle = format!("{}:{}", planning.deploy.name, planning.deploy.version);
        let digest = planning.deploy.digest.clone();
        let opens_at = planning.opens_at.map(Timestamp::to_proto);
        let api = &self.0;
        let clock = &api.sessions.clock;
        let devices =
            preflight::ask(planning, &api.sessions.plans, &api.registry, || clock.now()).await;
        Ok(Response::new(PlanDeploymentResponse {
            bundle,
            digest,
            devices,
            opens_at,
        }))
    }
}
