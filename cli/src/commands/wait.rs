//! `wait`: until a device or a deployment is as it should be.

use std::time::Duration;

use indicatif::ProgressBar;
use kernex_proto::v1;
use tonic::Code;

use super::{Session, deployment, present, reconnect::ReconnectPolicy};
use crate::{
    args::{
        deployment::DeploymentCommand,
        verbs::{DeviceWish, WaitCommand},
    },
    client::Client,
    error::{Exit, Failure},
    output::{print_note, progress::spinner},
};

/// Time between two looks at a device.
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub(crate) async fn run(session: &Session, command: WaitCommand) -> Result<(), Failure> {
    match command {
        WaitCommand::Device {
            device,
            wish,
            timeout,
        } => {
            let client = session.connect().await?;
            let bar = spinner(&format!("{device} is to be {}", word(wish)));
            let looks = tokio::time::timeout(timeout, until(&client, &device, wish, &bar));
            let found = looks.await;
            bar.finish_and_clear();
            found.unwrap_or_else(|_| {
                Err(Failure::new(
                    Exit::TimedOut,
                    format!("{device} is not {} yet", word(wish)),
                    format!("See `kernexctl device get {device}`."),
                ))
            })
        }
        WaitCommand::Deployment {
            id,
            timeout,
            output,
        } => {
            let command = DeploymentCommand::Watch {
                id,
                timeout,
                output,
            };
            deployment::run(session, command).await
        }
    }
}

/// Looks again and again, over restarts of the server. A device that does not exist is an error:
/// its name may be mistyped.
async fn until(
    client: &Client,
    device: &str,
    wish: DeviceWish,
    bar: &ProgressBar,
) -> Result<(), Failure> {
    let mut reconnect = ReconnectPolicy::new();
    let say = |text: &str| bar.suspend(|| print_note(text));
    loop {
        let request = v1::GetDeviceRequest {
            device: device.to_owned(),
        };
        match client.devices().get_device(request).await {
            Ok(answer) => {
                reconnect.note_answer(say);
                if is(&present(answer.into_inner().device, "device")?, wish) {
                    return Ok(());
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
            Err(status) if status.code() == Code::NotFound => return Err(status.into()),
            Err(status) => reconnect.wait(Some(status), say).await?,
        }
    }
}

fn is(device: &v1::Device, wish: DeviceWish) -> bool {
    let online = device.status() == v1::DeviceStatus::Online;
    match wish {
        DeviceWish::Online => online,
        DeviceWish::Offline => device.status() == v1::DeviceStatus::Offline,
        DeviceWish::Settled => online && device.drifts.is_empty(),
    }
}

const fn word(wish: DeviceWish) -> &'static str {
    match wish {
        DeviceWish::Online => "online",
        DeviceWish::Offline => "offline",
        DeviceWish::Settled => "settled",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_settled_when_it_is_here_and_runs_what_it_should() {
        let device = |status: v1::DeviceStatus, drifts| v1::Device {
            status: status.into(),
            drifts: vec![v1::Drift::default(); drifts],
            ..Default::default()
        };
        use v1::DeviceStatus::{Conflicted, Offline, Online};
        assert!(is(&device(Online, 1), DeviceWish::Online));
        assert!(!is(&device(Online, 1), DeviceWish::Settled));
        assert!(is(&device(Online, 0), DeviceWish::Settled));
        assert!(!is(&device(Offline, 0), DeviceWish::Settled));
        assert!(is(&device(Offline, 0), DeviceWish::Offline));
        assert!(!is(&device(Conflicted, 0), DeviceWish::Online));
    }
}
