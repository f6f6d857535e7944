//! `deployment`: see, watch, steer and stop deployments.

mod halt;
mod steer;

use kernex_proto::v1;

use super::{Session, confirm, present, rollback, watch};
use crate::{
    args::deployment::DeploymentCommand,
    client::{Client, call, pages, request_id, timed},
    error::Failure,
    output::{Printer, deployment::DeploymentView, emit, say, target::TargetView},
};

/// Runs one of the verbs.
pub(super) async fn run(session: &Session, command: DeploymentCommand) -> Result<(), Failure> {
    match command {
        DeploymentCommand::List { limit, output } => {
            let client = session.connect().await?;
            let views: Vec<DeploymentView> = list(&client, limit)
                .await?
                .into_iter()
                .map(DeploymentView::from)
                .collect();
            Printer::new(output.output).list(&views)
        }
        DeploymentCommand::Get { id, output } => {
            let client = session.connect().await?;
            let request = v1::GetDeploymentRequest {
                deployment_id: id.clone(),
            };
            let answer = call(
                "kernex.v1.DeploymentService/GetDeployment",
                client.deployments().get_deployment(timed(request)),
            )
            .await?;
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
        DeploymentCommand::Watch {
            id,
            timeout,
            output,
        } => {
            let client = session.connect().await?;
            watch::show(&client, &id, timeout, Printer::new(output.output)).await
        }
        DeploymentCommand::Rollback(args) => rollback::run(session, args).await,
        DeploymentCommand::Pause { steer, reason } => steer::pause(session, steer, reason).await,
        DeploymentCommand::Resume(steer) => steer::resume(session, steer).await,
        DeploymentCommand::Promote(args) => steer::promote(session, args).await,
        DeploymentCommand::Retry(args) => steer::retry(session, args).await,
        DeploymentCommand::Halt(args) => halt::run(session, args).await,
        DeploymentCommand::Cancel {
            id,
            consent,
            output,
        } => {
            confirm(
                consent,
                &format!("Stop the deployment {id}? What runs on devices is killed."),
            )?;
            let client = session.connect().await?;
            let request = v1::CancelDeploymentRequest {
                deployment_id: id.clone(),
                request_id: request_id(),
            };
            let answer = call(
                "kernex.v1.DeploymentService/CancelDeployment",
                client.deployments().cancel_deployment(timed(request)),
            )
            .await?;
            let printer = Printer::new(output.output);
            let deployment = present(answer.deployment, "deployment")?;
            let stopping = deployment.state() != v1::DeploymentState::Finished;
            printer.list(&[DeploymentView::from(deployment)])?;
            if stopping && printer.for_people() {
                say(&format!(
                    "Some devices have not answered yet; watch them with `kernexctl deployment watch {id}`."
                ));
            }
            Ok(())
        }
    }
}

async fn list(client: &Client, limit: u32) -> Result<Vec<v1::Deployment>, Failure> {
    pages(Some(limit), |page_size, page_token| {
        let client = client.clone();
        async move {
            let request = v1::ListDeploymentsRequest {
                page_size,
                page_token,
            };
            let page = call(
                "kernex.v1.DeploymentService/ListDeployments",
                client.deployments().list_deployments(timed(request)),
            )
            .await?;
            Ok((page.deployments, page.next_page_token))
        }
    })
    .await
}

async fn targets(client: &Client, id: &str) -> Result<Vec<TargetView>, Failure> {
    let targets = pages(None, |page_size, page_token| {
        let (client, deployment_id) = (client.clone(), id.to_owned());
        async move {
            let request = v1::ListTargetsRequest {
                deployment_id,
                page_size,
                page_token,
            };
            let page = call(
                "kernex.v1.DeploymentService/ListTargets",
                client.deployments().list_targets(timed(request)),
            )
            .await?;
            Ok((page.targets, page.next_page_token))
        }
    })
    .await?;
    let mut views: Vec<TargetView> = targets.into_iter().map(TargetView::from).collect();
    views.sort_by(|a, b| a.device().cmp(b.device()));
    Ok(views)
}
