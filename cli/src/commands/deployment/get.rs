//! `deployment get`

use kernex_proto::v1;

use super::watch;
use crate::{
    args::OutputArg,
    client::{Client, pages},
    commands::{Session, present},
    error::Failure,
    output::{Printer, deployment::DeploymentView, emit, target::TargetView},
};

/// Shows one deployment with its targets.
pub(super) async fn run(session: &Session, id: String, output: OutputArg) -> Result<(), Failure> {
    let client = session.connect().await?;
    let request = v1::GetDeploymentRequest {
        deployment_id: id.clone(),
    };
    let answer = client
        .deployments()
        .get_deployment(request)
        .await?
        .into_inner();
    let view = DeploymentView::from(present(answer.deployment, "deployment")?);
    let targets = targets(&client, &id).await?;
    let printer = Printer::new(output.output);
    if !printer.for_people() {
        return printer.one(&view.with_targets(targets));
    }
    printer.one(&view)?;
    emit("\n")?;
    if !view.phases().is_empty() {
        printer.list(view.phases())?;
        emit("\n")?;
    }
    printer.list(&targets)?;
    if printer.wide() {
        watch::print_output(&targets);
    }
    Ok(())
}

async fn targets(client: &Client, id: &str) -> Result<Vec<TargetView>, Failure> {
    let targets = pages(None, |page_size, page_token| {
        let request = v1::ListTargetsRequest {
            deployment_id: id.to_owned(),
            page_size,
            page_token,
        };
        async move {
            let page = client
                .deployments()
                .list_targets(request)
                .await?
                .into_inner();
            Ok((page.targets, page.next_page_token))
        }
    })
    .await?;
    let mut views: Vec<TargetView> = targets.into_iter().map(TargetView::from).collect();
    views.sort_by(|a, b| a.device().cmp(b.device()));
    Ok(views)
}
