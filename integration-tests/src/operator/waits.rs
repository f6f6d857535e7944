//! Waits for what became of an order or a device.

use std::time::Duration;

use kernex_proto::v1::{
    AttemptState, Bundle, Deployment, DeploymentState, Device, DeviceStatus, Target,
    WatchEventsRequest,
};

use super::Operator;
use crate::wait::{LIMIT, seen, wait_for, wait_for_within};

impl Operator {
    /// Waits until the only target of a deployment is in one of these states.
    pub async fn target_in(&self, id: &str, states: &[AttemptState]) -> Target {
        wait_for(&format!("the target to be {states:?}"), || async {
            let target = self.target(id).await;
            seen(states.contains(&target.state()), target)
        })
        .await
    }

    /// Waits until the deployment is finished.
    pub async fn finished(&self, id: &str) -> Deployment {
        self.finished_within(id, LIMIT).await
    }

    /// Waits until the deployment is finished, at most `limit`.
    pub async fn finished_within(&self, id: &str, limit: Duration) -> Deployment {
        wait_for_within(limit, "the deployment to finish", || async {
            let deployment = self.deployment(id).await;
            if deployment.state() == DeploymentState::Finished {
                return Ok(deployment);
            }
            Err(format!("{deployment:?}\n{:#?}", self.targets(id).await))
        })
        .await
    }

    /// Deploys to one device and waits for the end; returns its target.
    pub async fn deploy_and_finish(&self, bundle: &Bundle, device: &str) -> Target {
        let id = self.deploy(bundle, &[device]).await;
        self.finished(&id).await;
        self.target(&id).await
    }

    /// Waits until a device has this property.
    pub async fn device_where(
        &self,
        device: &str,
        what: &str,
        holds: impl Fn(&Device) -> bool,
    ) -> Device {
        wait_for(&format!("{device} {what}"), || async {
            let device = self.device(device).await;
            seen(holds(&device), device)
        })
        .await
    }

    /// Kinds of the events that are kept, from the oldest to the first of kind `until`.
    ///
    /// # Panics
    /// When there is none of that kind.
    pub async fn event_kinds(&self, until: &str) -> Vec<String> {
        let request = WatchEventsRequest::default();
        let events = self.events().watch_events(request).await;
        let mut events = events.expect("events can be watched").into_inner();
        let mut kinds = Vec::new();
        while kinds.last().is_none_or(|kind| kind != until) {
            let next = tokio::time::timeout(LIMIT, events.message()).await;
            let next = next.unwrap_or_else(|_| panic!("no {until} among {kinds:?}"));
            let event = next.expect("the watch goes on").and_then(|it| it.event);
            kinds.push(event.expect("an event").kind);
        }
        kinds
    }

    /// Waits until a device is online.
    pub async fn online(&self, device: &str) -> Device {
        self.device_where(device, "to be online", |device| {
            device.status() == DeviceStatus::Online
        })
        .await
    }

    /// Waits until a device is offline.
    pub async fn offline(&self, device: &str) -> Device {
        self.device_where(device, "to be offline", |device| {
            device.status() == DeviceStatus::Offline
        })
        .await
    }
}
