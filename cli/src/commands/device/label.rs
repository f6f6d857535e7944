//! `device label`: labels of one device, or of all that match a selector.

use futures::{StreamExt as _, TryStreamExt as _, stream};
use kernex_proto::v1;

use super::list;
use crate::{
    args::{Consent, LabelChange, OutputArg, parse_label_change},
    client::{Client, request_id},
    commands::{Session, confirm, present},
    error::{Exit, Failure},
    output::{Printer, counted, device::DeviceView, print_note},
};

/// Most changes that are sent at the same time.
const AT_ONCE: usize = 16;

pub(super) async fn run(
    session: &Session,
    device: String,
    changes: Vec<String>,
    output: OutputArg,
) -> Result<(), Failure> {
    let changes = read(&changes)?;
    let client = session.connect().await?;
    let device = change(&client, device, &changes).await?;
    Printer::new(output.output).row(&DeviceView::from(device))
}

/// Changes every device that matches. Each change stands alone: the same command again does what
/// is left.
pub(super) async fn run_for_all(
    session: &Session,
    selector: &str,
    changes: Vec<String>,
    consent: Consent,
) -> Result<(), Failure> {
    let changes = read(&changes)?;
    let client = session.connect().await?;
    let devices = list::list(&client, selector).await?;
    if devices.is_empty() {
        return Err(Failure::new(
            Exit::NotFoundOrConflict,
            format!("no device matches `{selector}`"),
            "See which devices and labels there are with `kernexctl device list`.",
        ));
    }
    let all = devices.len();
    let left: Vec<v1::Device> = devices
        .into_iter()
        .filter(|device| !changes.iter().all(|change| is_done(device, change)))
        .collect();
    let count = counted(left.len() as u64, "device");
    if left.is_empty() {
        print_note(&format!(
            "{} had these labels already.",
            counted(all as u64, "device")
        ));
        return Ok(());
    }
    confirm(consent, &format!("Change the labels of {count}?")).await?;
    let mut done = 0_usize;
    let changed = stream::iter(
        left.into_iter()
            .map(|device| change(&client, device.id, &changes)),
    )
    .buffer_unordered(AT_ONCE)
    .try_for_each(|_| {
        done += 1;
        std::future::ready(Ok(()))
    })
    .await;
    match changed {
        Ok(()) => {
            print_note(&format!("Changed the labels of {count}."));
            Ok(())
        }
        Err(failure) => Err(Failure::new(
            failure.exit,
            format!("{} ({done} of {count} were changed)", failure.message),
            format!("{} The same command again changes the rest.", failure.next),
        )),
    }
}

fn read(changes: &[String]) -> Result<Vec<LabelChange>, Failure> {
    const FORM: &str = "Write `key=value` to set a label, `key-` to remove one.";
    if changes.is_empty() {
        return Err(Failure::usage("no label is named", FORM));
    }
    let read = changes.iter().map(|text| parse_label_change(text));
    read.collect::<Result<_, _>>()
        .map_err(|why| Failure::usage(why, FORM))
}

/// Whether a device already is as the change wants it.
fn is_done(device: &v1::Device, change: &LabelChange) -> bool {
    match change {
        LabelChange::Set(key, value) => device.labels.get(key) == Some(value),
        LabelChange::Remove(key) => !device.labels.contains_key(key),
    }
}

async fn change(
    client: &Client,
    device: String,
    changes: &[LabelChange],
) -> Result<v1::Device, Failure> {
    let mut request = v1::UpdateDeviceLabelsRequest {
        device,
        request_id: request_id(),
        ..Default::default()
    };
    for change in changes {
        match change {
            LabelChange::Set(key, value) => {
                request.set.insert(key.clone(), value.clone());
            }
            LabelChange::Remove(key) => request.remove.push(key.clone()),
        }
    }
    let answer = client.devices().update_device_labels(request).await?;
    present(answer.into_inner().device, "device")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_so_already_is_not_changed_again() {
        let device = v1::Device {
            labels: [("site".to_owned(), "berlin".to_owned())].into(),
            ..Default::default()
        };
        let done = |text: &str| is_done(&device, &parse_label_change(text).unwrap());
        assert!(done("site=berlin") && done("canary-"));
        assert!(!done("site=paris") && !done("site-"));
        assert!(read(&[]).is_err() && read(&["nonsense".into()]).is_err());
    }
}
