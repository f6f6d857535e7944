//! `deployment list`

use kernex_proto::v1;

use crate::{
    args::OutputArg,
    client::pages,
    commands::Session,
    error::Failure,
    output::{Printer, deployment::DeploymentView},
};

/// Lists deployments, the newest first.
pub(super) async fn run(session: &Session, limit: u32, output: OutputArg) -> Result<(), Failure> {
    let client = &session.connect().await?;
    let deployments = pages(Some(limit), |page_size, page_token| {
        let request = v1::ListDeploymentsRequest {
            page_size,
            page_token,
        };
        async move {
            let page = client
                .deployments()
                .list_deployments(request)
                .await?
                .into_inner();
            Ok((page.deployments, page.next_page_token))
        }
    })
    .await?;
    let views: Vec<DeploymentView> = deployments.into_iter().map(DeploymentView::from).collect();
    Printer::new(output.output).list(&views)
}
