//! `device delete`

use kernex_proto::v1;

use crate::{
    args::Consent,
    client::request_id,
    commands::{Session, confirm},
    error::Failure,
    output::print_note,
};

/// Deletes a device, and prints what became of its open work.
pub(super) async fn run(
    session: &Session,
    device: String,
    consent: Consent,
) -> Result<(), Failure> {
    confirm(
        consent,
        &format!("Delete the device {device}? What it runs is stopped, and its key is revoked."),
    )
    .await?;
    let client = session.connect().await?;
    let request = v1::DeleteDeviceRequest {
        device: device.clone(),
        request_id: request_id(),
    };
    let answer = client.devices().delete_device(request).await?.into_inner();
    for work in &answer.work {
        print_note(&stopped(work));
    }
    print_note(&format!(
        "The device {device} is deleted; its agent cannot come back with that key."
    ));
    Ok(())
}

/// What became of one thing that a deleted device had in flight.
fn stopped(work: &v1::StoppedWork) -> String {
    let v1::StoppedWork {
        bundle,
        state,
        message,
        ..
    } = work;
    match (work.answered, message.as_str()) {
        (false, _) => format!("{bundle}: the device did not answer; its script may still run"),
        (true, "") => format!("{bundle}: stopped, {state}"),
        (true, message) => format!("{bundle}: stopped, {state}: {message}"),
    }
}
