//! `DeploymentService`: an operator's order becomes rows and a wake-up; what became of it is
//! watched.

mod watch;

use std::{collections::HashSet, sync::Arc, time::Duration};

use kernex_proto::{
    telemetry,
    v1::{
        CancelDeploymentRequest, CancelDeploymentResponse, CreateDeploymentRequest,
        CreateDeploymentResponse, GetDeploymentRequest, GetDeploymentResponse,
        ListDeploymentsRequest, ListDeploymentsResponse, ListTargetsRequest, ListTargetsResponse,
        RollbackDeploymentRequest, RollbackDeploymentResponse, WatchDeploymentRequest,
        WatchDeploymentResponse, deployment_service_server::DeploymentService,
    },
};
use tonic::{Request, Response, Status};

use super::{
    Api,
    convert::{fitting_page, selector},
    id, page,
    rollouts::wire::rollout,
    seconds,
    terms::terms,
};
use crate::{
    edge::{
        answers::{FEW, Fed},
        auth::caller,
    },
    error::invalid,
    store::{NewDeployment, NewRollback},
};

const DELIVERY: Duration = Duration::from_secs(7 * 24 * 3600);
const EXECUTION: Duration = Duration::from_secs(3600);

/// The service.
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
        let devices = created.devices.len();
        let pushed: HashSet<_> = created.due.iter().map(|due| due.device).collect();
        let others = created.devices.into_iter();
        let others = others.filter(|device| !pushed.contains(device));
        self.0.wake_ups.push_fresh(created.due);
        self.0.wake_ups.wake_devices(others);
        if created.deployment.rollout.is_some() {
            self.0.wake_ups.wake_rollouts();
        }
        // The devices hear of it first.
        tokio::task::yield_now().await;
        tracing::info!(deployment = %created.deployment.id, bundle = created.deployment.bundle, devices, "deployment created");
        Ok(Response::new(CreateDeploymentResponse {
            deployment: Some(created.deployment.into()),
        }))
    }

    async fn get_deployment(
        &self,
        request: Request<GetDeploymentRequest>,
    ) -> Result<Response<GetDeploymentResponse>, Status> {
        let id = id("deployment_id", &request.get_ref().deployment_id)?;
        let deployment = self.0.store.get_deployment(id).await?;
        Ok(Response::new(GetDeploymentResponse {
            deployment: Some(deployment.into()),
        }))
    }

    async fn list_deployments(
        &self,
        request: Request<ListDeploymentsRequest>,
    ) -> Result<Response<ListDeploymentsResponse>, Status> {
        let request = request.into_inner();
        let page = page(request.page_size, request.page_token)?;
        let (deployments, next_page_token) =
            fitting_page(page, |page| self.0.store.list_deployments(page)).await?;
        Ok(Response::new(ListDeploymentsResponse {
            deployments,
            next_page_token,
        }))
    }

    async fn list_targets(
        &self,
        request: Request<ListTargetsRequest>,
    ) -> Result<Response<ListTargetsResponse>, Status> {
        let request = request.into_inner();
        let id = id("deployment_id", &request.deployment_id)?;
        let page = page(request.page_size, request.page_token)?;
        let (targets, next_page_token) =
            fitting_page(page, |page| self.0.store.list_targets(id, page)).await?;
        Ok(Response::new(ListTargetsResponse {
            targets,
            next_page_token,
        }))
    }

    type WatchDeploymentStream = Fed<WatchDeploymentResponse>;

    async fn watch_deployment(
        &self,
        request: Request<WatchDeploymentRequest>,
    ) -> Result<Response<Self::WatchDeploymentStream>, Status> {
        let id = id("deployment_id", &request.get_ref().deployment_id)?;
        let answers = watch::follow(
            self.0.store.clone(),
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
        tracing::info!(deployment = %id, devices = devices.len(), "deployment cancelled");
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
        };
        if request.plan {
            let steps = self.0.store.plan_rollback(new.deployment).await?;
            return Ok(Response::new(RollbackDeploymentResponse {
                deployment: None,
                steps: steps.into_iter().map(Into::into).collect(),
            }));
        }
        let rolled = self.0.store.roll_back(&caller, new).await?;
        let created = rolled.created;
        tracing::info!(deployment = %created.deployment.id, rolls_back = request.deployment_id, devices = created.devices.len(), "deployment rolled back");
        self.0.wake_ups.wake_devices(rolled.stopped);
        self.0.wake_ups.wake_devices(created.devices);
        Ok(Response::new(RollbackDeploymentResponse {
            deployment: Some(created.deployment.into()),
            steps: rolled.steps.into_iter().map(Into::into).collect(),
        }))
    }
}

/// The trace an order belongs to. Without an exporter here the caller's is handed on as it came.
fn traceparent(metadata: &tonic::metadata::MetadataMap) -> String {
    let here = telemetry::current_traceparent();
    if here.is_empty() {
        telemetry::extract(metadata)
    } else {
        here
    }
}

pub(super) fn order(
    request: CreateDeploymentRequest,
    traceparent: String,
    penalty_after: u32,
) -> Result<NewDeployment, Status> {
    if request.bundle.is_empty() {
        return Err(invalid(
            "bundle",
            "name it as name:version or by its digest",
        ));
    }
    let device_ids = request
        .device_ids
        .iter()
        .map(|text| id("device_ids", text))
        .collect::<Result<_, _>>()?;
    let selector = selector(&request.selector)?;
    if selector.is_none() && request.device_ids.is_empty() && request.device_names.is_empty() {
        return Err(invalid(
            "selector",
            "name the devices by id, name or selector; `*` means every device",
        ));
    }
    Ok(NewDeployment {
        terms: terms(&request, selector.as_ref(), penalty_after)?,
        bundle: request.bundle,
        device_ids,
        device_names: request.device_names,
        selector,
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
        rollout: request.rollout.map(rollout).transpose()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> CreateDeploymentRequest {
        CreateDeploymentRequest {
            bundle: "hello:1.0".into(),
            selector: "*".into(),
            ..Default::default()
        }
    }

    #[test]
    fn an_order_without_deadlines_gets_the_defaults() {
        let new = order(request(), String::new(), 3).unwrap();
        assert_eq!((new.delivery, new.execution), (DELIVERY, EXECUTION));
        assert!(new.selector.is_some_and(|selector| selector.is_all()));
    }

    #[test]
    fn every_device_is_never_meant_by_leaving_all_fields_empty() {
        let nobody = CreateDeploymentRequest {
            selector: " ".into(),
            ..request()
        };
        assert!(order(nobody, String::new(), 3).is_err());
        let one = CreateDeploymentRequest {
            selector: String::new(),
            device_names: vec!["edge-1".into()],
            ..request()
        };
        assert!(order(one, String::new(), 3).unwrap().selector.is_none());
    }

    #[test]
    fn fields_that_make_no_sense_are_named() {
        let table: [(&str, CreateDeploymentRequest); 4] = [
            (
                "bundle",
                CreateDeploymentRequest {
                    bundle: String::new(),
                    ..request()
                },
            ),
            (
                "device_ids",
                CreateDeploymentRequest {
                    device_ids: vec!["x".into()],
                    ..request()
                },
            ),
            (
                "selector",
                CreateDeploymentRequest {
                    selector: "a=b,".into(),
                    ..request()
                },
            ),
            (
                "execution_timeout_seconds",
                CreateDeploymentRequest {
                    execution_timeout_seconds: u64::MAX,
                    ..request()
                },
            ),
        ];
        for (field, request) in table {
            let status = order(request, String::new(), 3).unwrap_err();
            assert!(status.message().starts_with(field), "{field}: {status}");
        }
    }
}
