//! `device history`

use kernex_proto::v1;

use crate::{
    args::OutputArg,
    client::pages,
    commands::Session,
    error::Failure,
    output::{Printer, device::HistoryView},
};

/// Shows what was deployed to a device.
pub(super) async fn run(
    session: &Session,
    device: &str,
    limit: u32,
    output: OutputArg,
) -> Result<(), Failure> {
    let client = &session.connect().await?;
    let entries = pages(Some(limit), |page_size, page_token| {
        let request = v1::ListDeviceHistoryRequest {
            device: device.to_owned(),
            page_size,
            page_token,
        };
        async move {
            let page = client
                .devices()
                .list_device_history(request)
                .await?
                .into_inner();
            Ok((page.entries, page.next_page_token))
        }
    })
    .await?;
    let views: Vec<HistoryView> = entries.into_iter().map(HistoryView::from).collect();
    Printer::new(output.output).list(&views)
}
