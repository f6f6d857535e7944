//! `deployment list`

use kernex_proto::v1;

use crate::{
    args::OutputArg,
    commands::{Session, print_pages},
    error::Failure,
    output::deployment::DeploymentView,
};

pub(super) async fn run(session: &Session, limit: u32, output: OutputArg) -> Result<(), Failure> {
    let client = &session.connect().await?;
    print_pages::<DeploymentView, _, _, _>(Some(limit), output, |page_size, page_token| {
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
    .await
}
