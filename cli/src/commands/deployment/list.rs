//! `deployment list`

use kernex_proto::v1;

use crate::{
    args::{OutputArg, deployment::DeploymentFilterArgs, listing::ListArgs},
    client::{Client, Listed, Page, counted_pages},
    commands::Session,
    error::Failure,
    output::{deployment::DeploymentView, listing::Listing},
};

/// Most deployments without `--limit`: their number grows every day.
const USUAL: u32 = 50;

pub(super) async fn run(
    session: &Session,
    filter: DeploymentFilterArgs,
    list: ListArgs,
    output: OutputArg,
) -> Result<(), Failure> {
    let filter = filter.filter();
    let listing = Listing::new(list, output)
        .usually(USUAL)
        .narrowed(filter.is_some());
    let client = session.connect().await?;
    let found = fetch(&client, listing.fetched(), filter).await?;
    let views = found.items.into_iter().map(DeploymentView::from).collect();
    listing.print(views, found.total, "deployment")?;
    Ok(())
}

/// The newest deployments that match a filter.
pub(crate) async fn fetch(
    client: &Client,
    limit: Option<u32>,
    filter: Option<v1::DeploymentFilter>,
) -> Result<Listed<v1::Deployment>, Failure> {
    counted_pages(limit, filter.is_some(), |page| {
        let request = v1::ListDeploymentsRequest {
            page_size: page.size,
            page_token: page.token,
            filter: filter.clone(),
            count: page.count,
        };
        async move {
            let page = client
                .deployments()
                .list_deployments(request)
                .await?
                .into_inner();
            Ok(Page {
                items: page.deployments,
                next: page.next_page_token,
                total: page.total,
            })
        }
    })
    .await
}
