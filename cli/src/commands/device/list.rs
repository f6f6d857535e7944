//! `device list`

use kernex_proto::v1;

use crate::{
    args::OutputArg,
    client::{Client, pages},
    commands::Session,
    error::Failure,
    output::{
        Printer,
        device::{DeviceView, fleet},
        print_note,
    },
};

pub(super) async fn run(
    session: &Session,
    selector: &str,
    output: OutputArg,
) -> Result<(), Failure> {
    let devices = list(&session.connect().await?, selector).await?;
    let views: Vec<DeviceView> = devices.into_iter().map(DeviceView::from).collect();
    let printer = Printer::new(output.output);
    printer.list(&views)?;
    if printer.for_people() && !views.is_empty() {
        print_note(&fleet(&views));
    }
    Ok(())
}

/// All devices that match.
pub(crate) async fn list(client: &Client, selector: &str) -> Result<Vec<v1::Device>, Failure> {
    pages(None, |page_size, page_token| {
        let request = v1::ListDevicesRequest {
            selector: selector.to_owned(),
            page_size,
            page_token,
        };
        async move {
            let page = client.devices().list_devices(request).await?.into_inner();
            Ok((page.devices, page.next_page_token))
        }
    })
    .await
}
