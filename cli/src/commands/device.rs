//! `device`: who is there, how they are, what they run.

use kernex_proto::v1;

use super::{Session, confirm, device_watch, present};
use crate::{
    args::{DeviceCommand, LabelChange},
    client::{Client, call, pages, request_id, timed},
    error::Failure,
    output::{
        Printer,
        device::{DeviceView, HistoryView, MetricView, fleet},
        say,
    },
};

/// Runs one of the verbs.
pub(super) async fn run(session: &Session, command: DeviceCommand) -> Result<(), Failure> {
    match command {
        DeviceCommand::List {
            selector,
            watch: true,
            output,
        } => {
            let client = session.connect().await?;
            device_watch::run(&client, &selector, Printer::new(output.output)).await
        }
        DeviceCommand::List {
            selector, output, ..
        } => {
            let devices = list(&session.connect().await?, &selector).await?;
            let views: Vec<DeviceView> = devices.into_iter().map(DeviceView::from).collect();
            let printer = Printer::new(output.output);
            printer.list(&views)?;
            if printer.for_people() && !views.is_empty() {
                say(&fleet(&views));
            }
            Ok(())
        }
        DeviceCommand::Get { device, output } => {
            let client = session.connect().await?;
            let request = v1::GetDeviceRequest { device };
            let answer = call(
                "kernex.v1.DeviceService/GetDevice",
                client.devices().get_device(timed(request)),
            )
            .await?;
            Printer::new(output.output).one(&DeviceView::from(present(answer.device, "device")?))
        }
        DeviceCommand::Label {
            device,
            changes,
            output,
        } => {
            let client = session.connect().await?;
            let mut request = v1::UpdateDeviceLabelsRequest {
                device,
                request_id: request_id(),
                ..Default::default()
            };
            for change in changes {
                match change {
                    LabelChange::Set(key, value) => {
                        request.set.insert(key, value);
                    }
                    LabelChange::Remove(key) => request.remove.push(key),
                }
            }
            let answer = call(
                "kernex.v1.DeviceService/UpdateDeviceLabels",
                client.devices().update_device_labels(timed(request)),
            )
            .await?;
            Printer::new(output.output).list(&[DeviceView::from(present(answer.device, "device")?)])
        }
        DeviceCommand::Metrics {
            device,
            limit,
            output,
        } => {
            let client = session.connect().await?;
            let samples = metrics(&client, &device, limit).await?;
            let views: Vec<MetricView> = samples.into_iter().map(MetricView::from).collect();
            Printer::new(output.output).list(&views)
        }
        DeviceCommand::History {
            device,
            limit,
            output,
        } => {
            let client = session.connect().await?;
            let entries = history(&client, &device, limit).await?;
            let views: Vec<HistoryView> = entries.into_iter().map(HistoryView::from).collect();
            Printer::new(output.output).list(&views)
        }
        DeviceCommand::Resolve {
            device,
            allow_downgrade,
            consent,
            output,
        } => {
            let question = if allow_downgrade {
                format!(
                    "Let {device} prove itself by an older protocol once more, and, if it is conflicted, keep the copy that connected last?"
                )
            } else {
                format!(
                    "Keep the copy of {device} that connected last? Every other copy is refused until it enrols with a new key."
                )
            };
            confirm(consent, &question)?;
            let client = session.connect().await?;
            let request = v1::ResolveDeviceRequest {
                device,
                request_id: request_id(),
                allow_downgrade,
            };
            let answer = call(
                "kernex.v1.DeviceService/ResolveDevice",
                client.devices().resolve_device(timed(request)),
            )
            .await?;
            Printer::new(output.output).one(&DeviceView::from(present(answer.device, "device")?))
        }
        DeviceCommand::Delete { device, consent } => {
            confirm(
                consent,
                &format!(
                    "Delete the device {device}? What it does is stopped, and its key is revoked."
                ),
            )?;
            let client = session.connect().await?;
            let request = v1::DeleteDeviceRequest {
                device: device.clone(),
                request_id: request_id(),
            };
            let answer = call(
                "kernex.v1.DeviceService/DeleteDevice",
                client.devices().delete_device(timed(request)),
            )
            .await?;
            for work in &answer.work {
                say(&stopped(work));
            }
            say(&format!(
                "The device {device} is deleted; its agent cannot come back with that key."
            ));
            Ok(())
        }
    }
}

/// What became of something a deleted device had in flight.
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

/// All devices that match.
pub(crate) async fn list(client: &Client, selector: &str) -> Result<Vec<v1::Device>, Failure> {
    pages(None, |page_size, page_token| {
        let (client, selector) = (client.clone(), selector.to_owned());
        async move {
            let request = v1::ListDevicesRequest {
                selector,
                page_size,
                page_token,
            };
            let page = call(
                "kernex.v1.DeviceService/ListDevices",
                client.devices().list_devices(timed(request)),
            )
            .await?;
            Ok((page.devices, page.next_page_token))
        }
    })
    .await
}

async fn metrics(
    client: &Client,
    device: &str,
    limit: u32,
) -> Result<Vec<v1::MetricSample>, Failure> {
    pages(Some(limit), |page_size, page_token| {
        let (client, device) = (client.clone(), device.to_owned());
        async move {
            let request = v1::ListDeviceMetricsRequest {
                device,
                page_size,
                page_token,
            };
            let page = call(
                "kernex.v1.DeviceService/ListDeviceMetrics",
                client.devices().list_device_metrics(timed(request)),
            )
            .await?;
            Ok((page.samples, page.next_page_token))
        }
    })
    .await
}

async fn history(
    client: &Client,
    device: &str,
    limit: u32,
) -> Result<Vec<v1::DeviceHistoryEntry>, Failure> {
    pages(Some(limit), |page_size, page_token| {
        let (client, device) = (client.clone(), device.to_owned());
        async move {
            let request = v1::ListDeviceHistoryRequest {
                device,
                page_size,
                page_token,
            };
            let page = call(
                "kernex.v1.DeviceService/ListDeviceHistory",
                client.devices().list_device_history(timed(request)),
            )
            .await?;
            Ok((page.entries, page.next_page_token))
        }
    })
    .await
}
