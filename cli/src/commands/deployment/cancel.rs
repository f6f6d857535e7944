//! `deployment cancel`

use kernex_proto::v1;

use super::resolve::resolve;
use crate::{
    args::{Consent, OutputArg},
    client::{Client, request_id},
    commands::{Session, confirm, present},
    error::{Exit, Failure},
    output::{Printer, deployment::DeploymentView, print_note},
};

pub(super) async fn run(
    session: &Session,
    id: String,
    consent: Consent,
    output: OutputArg,
) -> Result<(), Failure> {
    let client = session.connect().await?;
    let whole_id = resolve(&client, &id).await?;
    refuse_finished(&client, &id, &whole_id).await?;
    confirm(
        consent,
        &format!("Stop the deployment {id}? What runs on devices is killed."),
    )
    .await?;
    let request = v1::CancelDeploymentRequest {
        deployment_id: whole_id,
        request_id: request_id(),
    };
    let answer = client
        .deployments()
        .cancel_deployment(request)
        .await?
        .into_inner();
    let printer = Printer::new(output.output);
    let deployment = present(answer.deployment, "deployment")?;
    let stopping = deployment.state() != v1::DeploymentState::Finished;
    printer.row(&DeploymentView::from(deployment))?;
    if stopping && printer.for_people() {
        print_note(&format!(
            "Some devices have not answered yet; watch them with `kernexctl deployment watch {id}`."
        ));
    }
    Ok(())
}

/// Fails when nothing is left to stop, before anybody is asked.
async fn refuse_finished(client: &Client, id: &str, whole_id: &str) -> Result<(), Failure> {
    let request = v1::GetDeploymentRequest {
        deployment_id: whole_id.to_owned(),
    };
    let answer = client.deployments().get_deployment(request).await?;
    let deployment = present(answer.into_inner().deployment, "deployment")?;
    if deployment.state() != v1::DeploymentState::Finished {
        return Ok(());
    }
    Err(Failure::new(
        Exit::NotFoundOrConflict,
        format!(
            "the deployment {id} is finished: {}",
            DeploymentView::from(deployment).sentence()
        ),
        format!("Nothing is left to stop; see `kernexctl deployment get {id}`."),
    ))
}
