//! `device metrics`

use kernex_proto::v1;

use crate::{
    args::OutputArg,
    client::pages,
    commands::Session,
    error::Failure,
    output::{Printer, device::MetricView},
};

/// Shows sampled heartbeats.
pub(super) async fn run(
    session: &Session,
    device: &str,
    limit: u32,
    output: OutputArg,
) -> Result<(), Failure> {
    let client = &session.connect().await?;
    let samples = pages(Some(limit), |page_size, page_token| {
        let request = v1::ListDeviceMetricsRequest {
            device: device.to_owned(),
            page_size,
            page_token,
        };
        async move {
            let page = client
                .devices()
                .list_device_metrics(request)
                .await?
                .into_inner();
            Ok((page.samples, page.next_page_token))
        }
    })
    .await?;
    let views: Vec<MetricView> = samples.into_iter().map(MetricView::from).collect();
    Printer::new(output.output).list(&views)
}
