//! A halt, watched until every device has answered.

use std::collections::HashMap;

use kernex_proto::{
    ids::{DeploymentId, DeviceId},
    v1,
};
use tokio::sync::watch;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{
    api::{Turn, convert::fitting, turn},
    error::going_away,
    store::{OperatorStore, deployments::Deployment, steering::Halted},
};

/// Tells who has answered: everybody first, then changes, until nobody is missing.
pub(super) fn follow(
    store: OperatorStore,
    id: DeploymentId,
    mut changes: watch::Receiver<u64>,
    draining: CancellationToken,
) -> impl Stream<Item = Result<v1::HaltDeploymentResponse, Status>> + Send {
    async_stream::try_stream! {
        let mut shown = HashMap::new();
        let mut first = true;
        loop {
            changes.mark_unchanged();
            let devices = store.halted(id).await?;
            let waiting = waiting(&devices);
            let news = news(&mut shown, devices);
            if first || !news.is_empty() {
                let deployment = store.get_deployment(id).await?;
                for message in messages(&deployment, news, waiting) {
                    yield message;
                }
            }
            first = false;
            if waiting == 0 {
                return;
            }
            match turn(&mut changes, &draining).await {
                Turn::Look => {}
                Turn::Stop => Err(going_away())?,
            }
        }
    }
}

fn waiting(devices: &[Halted]) -> u32 {
    let missing = devices.iter().filter(|device| !device.acknowledged);
    u32::try_from(missing.count()).unwrap_or(u32::MAX)
}

/// Those that stand differently from what was shown before.
fn news(shown: &mut HashMap<DeviceId, Halted>, devices: Vec<Halted>) -> Vec<v1::HaltedDevice> {
    let mut news = Vec::new();
    for device in devices {
        if shown.get(&device.device) != Some(&device) {
            shown.insert(device.device, device.clone());
            news.push(message(device));
        }
    }
    news
}

fn message(device: Halted) -> v1::HaltedDevice {
    v1::HaltedDevice {
        device_id: device.device.to_string(),
        device_name: device.device_name,
        acknowledged: device.acknowledged,
        online: device.online,
        state: v1::AttemptState::from(device.state).into(),
    }
}

/// One message, or several where one would be larger than clients take.
fn messages(
    deployment: &Deployment,
    mut devices: Vec<v1::HaltedDevice>,
    waiting: u32,
) -> Vec<v1::HaltDeploymentResponse> {
    let mut messages = Vec::new();
    loop {
        let rest = devices.split_off(fitting(&devices));
        messages.push(v1::HaltDeploymentResponse {
            deployment: Some(deployment.clone().into()),
            devices,
            waiting,
        });
        if rest.is_empty() {
            return messages;
        }
        devices = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::attempt::State;

    #[test]
    fn each_answer_is_told_once() {
        let mut shown = HashMap::new();
        let device = |acknowledged| Halted {
            device: DeviceId(uuid::Uuid::from_u128(1)),
            device_name: "edge-1".into(),
            acknowledged,
            online: true,
            state: State::Running,
        };
        assert_eq!(news(&mut shown, vec![device(false)]).len(), 1);
        assert!(news(&mut shown, vec![device(false)]).is_empty());
        let answered = news(&mut shown, vec![device(true)]);
        assert!(answered.iter().all(|device| device.acknowledged));
        assert_eq!(
            (answered.len(), waiting(&[device(true), device(false)])),
            (1, 1)
        );
    }
}
