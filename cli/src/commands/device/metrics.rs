//! `device metrics`

use kernex_proto::v1;

use crate::{
    args::OutputArg,
    commands::{Session, print_pages},
    error::Failure,
    output::device::MetricView,
};

pub(super) async fn run(
    session: &Session,
    device: &str,
    limit: u32,
    output: OutputArg,
) -> Result<(), Failure> {
    let client = &session.connect().await?;
    print_pages::<MetricView, _, _, _>(Some(limit), output, |page_size, page_token| {
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
    .await
}
