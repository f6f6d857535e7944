//! A halt, watched until every device has answered.

use std::collections::{HashMap, HashSet};

use kernex_proto::{
    ids::{DeploymentId, DeviceId},
    v1,
};
use tokio::sync::watch;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{
    api::{Awaited, await_change, wire::fitting::parts},
    domain::halt::HaltStanding,
    error::going_away,
    store::{HaltStatus, HaltedDevice, View},
};

/// Reports who has answered: all devices first, then changes, until every device has answered.
pub(super) fn follow(
    view: View,
    id: DeploymentId,
    mut changes: watch::Receiver<u64>,
    draining: CancellationToken,
) -> impl Stream<Item = Result<v1::HaltDeploymentResponse, Status>> + Send {
    async_stream::try_stream! {
        let mut shown = HashMap::new();
        let mut first = true;
        loop {
            changes.mark_unchanged();
            let HaltStatus { devices, done_before } = view.halted(id).await?;
            let waiting = waiting(&devices);
            let news = news(&mut shown, devices);
            if first || !news.is_empty() {
                let deployment = view.get_deployment(id).await?;
                let message = v1::HaltDeploymentResponse {
                    deployment: Some(deployment.into()),
                    devices: Vec::new(),
                    waiting,
                    done_before,
                };
                for message in messages(&message, news) {
                    yield message;
                }
            }
            first = false;
            if waiting == 0 {
                return;
            }
            match await_change(&mut changes, &draining).await {
                Awaited::Change => {}
                Awaited::Stop => Err(going_away())?,
            }
        }
    }
}

fn waiting(devices: &[HaltedDevice]) -> u32 {
    let missing = devices.iter().filter(|device| !device.is_acknowledged());
    u32::try_from(missing.count()).unwrap_or(u32::MAX)
}

/// Devices that changed since the last report. One that nobody waits for any more counts as ended:
/// its attempt expired before it was accepted, for instance.
fn news(
    shown: &mut HashMap<DeviceId, HaltedDevice>,
    mut devices: Vec<HaltedDevice>,
) -> Vec<v1::HaltedDevice> {
    let mut news = Vec::new();
    let here: HashSet<DeviceId> = devices.iter().map(|device| device.device).collect();
    let gone = shown.values().filter(|shown| !here.contains(&shown.device));
    devices.extend(gone.map(|shown| HaltedDevice {
        standing: HaltStanding::Ended,
        ..shown.clone()
    }));
    for device in devices {
        if shown.get(&device.device) != Some(&device) {
            shown.insert(device.device, device.clone());
            news.push(device.into());
        }
    }
    news
}

/// One message, or several where one would be larger than clients take.
fn messages(
    message: &v1::HaltDeploymentResponse,
    devices: Vec<v1::HaltedDevice>,
) -> Vec<v1::HaltDeploymentResponse> {
    let parts = parts(devices).into_iter();
    parts
        .map(|devices| v1::HaltDeploymentResponse {
            devices,
            ..message.clone()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::attempt::State;

    #[test]
    fn each_answer_is_told_once() {
        let mut shown = HashMap::new();
        let device = |standing| HaltedDevice {
            device: DeviceId(uuid::Uuid::from_u128(1)),
            device_name: "edge-1".into(),
            online: true,
            state: State::Running,
            reason: None,
            standing,
        };
        let (silent, going_back) = (
            device(HaltStanding::NotAnswered),
            device(HaltStanding::GoingBack),
        );
        assert_eq!(news(&mut shown, vec![silent.clone()]).len(), 1);
        assert!(news(&mut shown, vec![silent.clone()]).is_empty());
        let answered = news(&mut shown, vec![going_back.clone()]);
        assert!(answered.iter().all(|device| device.acknowledged));
        assert_eq!((answered.len(), waiting(&[going_back, silent])), (1, 1));
        let gone = news(&mut shown, Vec::new());
        assert_eq!(gone[0].standing(), v1::HaltStanding::Ended);
        assert!(news(&mut shown, Vec::new()).is_empty());
    }
}
