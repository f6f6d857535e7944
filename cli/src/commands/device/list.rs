//! `device list`

use kernex_proto::v1;

use crate::{
    args::{OutputArg, device::DeviceFilterArgs, listing::ListArgs},
    client::{Client, Listed, Page, counted_pages},
    commands::Session,
    error::Failure,
    output::{
        device::{DeviceView, fleet},
        listing::Listing,
        print_note,
    },
};

pub(super) async fn run(
    session: &Session,
    filter: DeviceFilterArgs,
    list: ListArgs,
    output: OutputArg,
) -> Result<(), Failure> {
    let is_narrowed = !filter.selector.is_empty() || filter.filter().is_some();
    let listing = Listing::new(list, output).narrowed(is_narrowed).by_name();
    let client = session.connect().await?;
    let devices = fetch(
        &client,
        listing.fetched(),
        &filter.selector,
        filter.filter(),
    )
    .await?;
    let views = devices.items.into_iter().map(DeviceView::from).collect();
    let shown = listing.print(views, devices.total, "device")?;
    let all = devices.total.is_none_or(|all| all == shown.len() as u64);
    if listing.printer().for_people() && !shown.is_empty() && all {
        print_note(&fleet(&shown));
    }
    Ok(())
}

/// All devices that match.
pub(crate) async fn list(client: &Client, selector: &str) -> Result<Vec<v1::Device>, Failure> {
    Ok(fetch(client, None, selector, None).await?.items)
}

async fn fetch(
    client: &Client,
    limit: Option<u32>,
    selector: &str,
    filter: Option<v1::DeviceFilter>,
) -> Result<Listed<v1::Device>, Failure> {
    counted_pages(limit, filter.is_some(), |page| {
        let request = v1::ListDevicesRequest {
            selector: selector.to_owned(),
            page_size: page.size,
            page_token: page.token,
            filter: filter.clone(),
            count: page.count,
        };
        async move {
            let page = client.devices().list_devices(request).await?.into_inner();
            Ok(Page {
                items: page.devices,
                next: page.next_page_token,
                total: page.total,
            })
        }
    })
    .await
}
