//! `DeviceService`: which devices are managed, how they are, and what they run.

mod watch;

use std::{sync::Arc, time::Duration};

use kernex_proto::ids::AttemptId;
use kernex_proto::v1::{
    DeleteDeviceRequest, DeleteDeviceResponse, GetDeviceRequest, GetDeviceResponse,
    ListDeviceHistoryRequest, ListDeviceHistoryResponse, ListDeviceMetricsRequest,
    ListDeviceMetricsResponse, ListDevicesRequest, ListDevicesResponse, ResolveDeviceRequest,
    ResolveDeviceResponse, StoppedWork, UpdateDeviceLabelsRequest, UpdateDeviceLabelsResponse,
    WatchDevicesRequest, WatchDevicesResponse, device_service_server::DeviceService,
};
use tonic::{Request, Response, Status};

use super::{
    Api, Awaited, await_change,
    wire::{
        fields::page,
        filter::device_filter,
        fitting::{fitting_page, total},
    },
};
use crate::{
    delivery::registry::EndReason,
    domain::device::DeviceStatus,
    edge::{
        answers::{FEW, Fed},
        auth::caller,
    },
    error::{going_away, invalid},
    store::View,
};

/// How long a device that is deleted may take to stop its attempts.
const STOPS: Duration = Duration::from_secs(5);

/// How soon a device opens its next session after its conflict was resolved.
const COME_BACK: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub struct Devices(pub(super) Arc<Api>);

impl Devices {
    /// Tells a device that is deleted to stop its attempts, and waits a moment for its outcomes. It
    /// does not wait for a device that is offline.
    async fn stop_work(&self, view: &View, device: &str) -> Result<Vec<AttemptId>, Status> {
        let api = &self.0;
        let mut changes = view.changes();
        let Some(stopping) = api.store.stop_device(view.scope(), device).await? else {
            return Ok(Vec::new());
        };
        api.wake_ups.wake_rollouts();
        if stopping.attempts.is_empty() || !stopping.online {
            return Ok(stopping.attempts);
        }
        api.wake_ups.wake_devices([stopping.device]);
        let answered = async {
            loop {
                changes.mark_unchanged();
                if view.has_answered(stopping.device).await? {
                    return Ok(());
                }
                if let Awaited::Stop = await_change(&mut changes, &api.draining).await {
                    return Err(going_away());
                }
            }
        };
        // After the limit, the answer names the attempts without an outcome.
        match tokio::time::timeout(STOPS, answered).await {
            Ok(Err(status)) => Err(status),
            Ok(Ok(())) | Err(_) => Ok(stopping.attempts),
        }
    }
}

#[tonic::async_trait]
impl DeviceService for Devices {
    async fn list_devices(
        &self,
        request: Request<ListDevicesRequest>,
    ) -> Result<Response<ListDevicesResponse>, Status> {
        let view = self.0.view(&request)?;
        let request = request.into_inner();
        let filter = device_filter(&request.selector, request.filter)?;
        let page = page(request.page_size, request.page_token)?;
        let (devices, next_page_token) =
            fitting_page(page, |page| view.list_devices(&filter, page)).await?;
        let total = total(request.count, view.count_devices(&filter)).await?;
        Ok(Response::new(ListDevicesResponse {
            devices,
            next_page_token,
            total,
        }))
    }

    type WatchDevicesStream = Fed<WatchDevicesResponse>;

    async fn watch_devices(
        &self,
        request: Request<WatchDevicesRequest>,
    ) -> Result<Response<Self::WatchDevicesStream>, Status> {
        let view = self.0.view(&request)?;
        let request = request.into_inner();
        let filter = device_filter(&request.selector, request.filter)?;
        if filter.seen_within.is_some() || filter.unseen_for.is_some() {
            return Err(invalid(
                "filter",
                "a watch has no filter by the last sign of life: time alone is no change",
            ));
        }
        let answers = watch::follow(Arc::clone(&self.0), view, filter, request.after).await?;
        Ok(super::watch(&self.0.metrics, FEW, answers))
    }

    async fn get_device(
        &self,
        request: Request<GetDeviceRequest>,
    ) -> Result<Response<GetDeviceResponse>, Status> {
        let view = self.0.view(&request)?;
        let device = view.get_device(&request.get_ref().device).await?;
        Ok(Response::new(GetDeviceResponse {
            device: Some(device.into()),
        }))
    }

    async fn update_device_labels(
        &self,
        request: Request<UpdateDeviceLabelsRequest>,
    ) -> Result<Response<UpdateDeviceLabelsResponse>, Status> {
        let caller = caller(
            &request,
            "UpdateDeviceLabels",
            &request.get_ref().request_id,
        )?;
        let change = request.into_inner();
        let both = |key: &&String| change.set.contains_key(*key);
        if let Some(key) = change.remove.iter().find(both) {
            return Err(invalid(
                "remove",
                format!("`{key}` is to be set and removed at once"),
            ));
        }
        let device = self
            .0
            .store
            .update_labels(
                &caller,
                &change.device,
                change.set.into_iter().collect(),
                change.remove,
                change.revision,
            )
            .await?;
        // With other labels the device may get another configuration and join other deployments.
        self.0.wake_ups.wake_configurations([device.id]);
        self.0.wake_ups.wake_rollouts();
        Ok(Response::new(UpdateDeviceLabelsResponse {
            device: Some(device.into()),
        }))
    }

    async fn delete_device(
        &self,
        request: Request<DeleteDeviceRequest>,
    ) -> Result<Response<DeleteDeviceResponse>, Status> {
        let caller = caller(&request, "DeleteDevice", &request.get_ref().request_id)?;
        let view = self.0.view(&request)?;
        let device = request.into_inner().device;
        let stopped = self.stop_work(&view, &device).await?;
        let deleted = self
            .0
            .store
            .delete_device(&caller, &device, &stopped)
            .await?;
        // Its open attempts are closed, so other targets may be opened.
        self.0.wake_ups.wake_rollouts();
        let work = deleted.work.into_iter().map(|work| StoppedWork {
            deployment_id: work.deployment.to_string(),
            bundle: work.bundle,
            attempt: work.attempt,
            state: work.state,
            answered: work.answered,
            message: work.message,
        });
        Ok(Response::new(DeleteDeviceResponse {
            work: work.collect(),
        }))
    }

    async fn list_device_metrics(
        &self,
        request: Request<ListDeviceMetricsRequest>,
    ) -> Result<Response<ListDeviceMetricsResponse>, Status> {
        let view = self.0.view(&request)?;
        let request = request.into_inner();
        let page = page(request.page_size, request.page_token)?;
        let (samples, next_page_token) =
            fitting_page(page, |page| view.list_metrics(&request.device, page)).await?;
        Ok(Response::new(ListDeviceMetricsResponse {
            samples,
            next_page_token,
        }))
    }

    async fn list_device_history(
        &self,
        request: Request<ListDeviceHistoryRequest>,
    ) -> Result<Response<ListDeviceHistoryResponse>, Status> {
        let view = self.0.view(&request)?;
        let request = request.into_inner();
        let page = page(request.page_size, request.page_token)?;
        let (entries, next_page_token) =
            fitting_page(page, |page| view.list_history(&request.device, page)).await?;
        Ok(Response::new(ListDeviceHistoryResponse {
            entries,
            next_page_token,
        }))
    }

    async fn resolve_device(
        &self,
        request: Request<ResolveDeviceRequest>,
    ) -> Result<Response<ResolveDeviceResponse>, Status> {
        let caller = caller(&request, "ResolveDevice", &request.get_ref().request_id)?;
        let device = self
            .0
            .store
            .resolve_device(
                &caller,
                &request.get_ref().device,
                request.get_ref().allow_downgrade,
            )
            .await?;
        // A decision has ended the session in the rows. Without one, the session goes on.
        let ended = device.status != DeviceStatus::Online;
        if let Some(session) = self.0.registry.get(device.id).filter(|_| ended) {
            // The copy that was kept opens a new session and sends its list of attempts. Other
            // copies are refused.
            session.end(EndReason::Drain {
                reconnect_after: COME_BACK,
            });
        }
        Ok(Response::new(ResolveDeviceResponse {
            device: Some(device.into()),
        }))
    }
}
