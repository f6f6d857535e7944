//! `deployment halt`: stop now, and see who has stopped.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use kernex_proto::v1;
use tonic::Status;

use super::super::{Session, confirm};
use crate::{
    args::deployment::HaltArgs,
    client::{Client, call_raw, request_id},
    error::{Exit, Failure, is_passing},
    output::{Printer, halted::HaltedView, say},
};

/// Between two tries to reach a server that went away.
const AGAIN: Duration = Duration::from_millis(500);

/// Halts, and waits for the answers.
pub(super) async fn run(session: &Session, args: HaltArgs) -> Result<(), Failure> {
    let id = args.steer.id;
    confirm(
        args.consent,
        &format!("Halt the deployment {id}? What runs on devices is killed."),
    )?;
    let client = session.connect().await?;
    let printer = Printer::new(args.steer.output.output);
    let started = Instant::now();
    let mut devices = BTreeMap::new();
    let waited = tokio::time::timeout(args.timeout, answers(&client, &id, &mut devices)).await;
    let missing = match waited {
        Ok(Ok(())) => 0,
        Ok(Err(failure)) => return Err(failure),
        Err(_) => devices
            .values()
            .filter(|device: &&v1::HaltedDevice| !device.acknowledged)
            .count(),
    };
    let all = devices.len();
    let views: Vec<HaltedView> = devices.into_values().map(HaltedView::from).collect();
    printer.list(&views)?;
    if missing > 0 {
        return Err(Failure::new(
            Exit::TimedOut,
            format!(
                "{missing} of {all} devices have not acknowledged within {:?}",
                args.timeout
            ),
            format!(
                "They are told again whenever they connect; run `kernexctl deployment halt {id} --yes` again to see who is missing."
            ),
        ));
    }
    if printer.for_people() {
        say(&format!(
            "Halted: all of {all} devices acknowledged within {} ms.",
            started.elapsed().as_millis()
        ));
    }
    Ok(())
}

/// Follows until nobody is missing, over restarts of the server: the same order again goes on telling.
async fn answers(
    client: &Client,
    id: &str,
    devices: &mut BTreeMap<String, v1::HaltedDevice>,
) -> Result<(), Failure> {
    let request_id = request_id();
    loop {
        match follow(client, id, &request_id, devices).await {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(status) if is_passing(&status) => {}
            Err(status) => return Err(status.into()),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn follow(
    client: &Client,
    id: &str,
    request_id: &str,
    devices: &mut BTreeMap<String, v1::HaltedDevice>,
) -> Result<bool, Status> {
    let request = v1::HaltDeploymentRequest {
        deployment_id: id.to_owned(),
        request_id: request_id.to_owned(),
    };
    let mut stream = call_raw(
        "kernex.v1.RolloutService/HaltDeployment",
        client.rollouts().halt_deployment(request),
    )
    .await?;
    let mut waiting = u32::MAX;
    while let Some(message) = stream.message().await? {
        waiting = message.waiting;
        for device in message.devices {
            devices.insert(device.device_name.clone(), device);
        }
    }
    Ok(waiting == 0)
}
