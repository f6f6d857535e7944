//! `deployment cancel`

use kernex_proto::v1;

use super::resolve::resolve;
use crate::{
    args::{Consent, OutputArg},
    client::request_id,
    commands::{Session, confirm, present},
    error::Failure,
    output::{Printer, deployment::DeploymentView, print_note},
};

pub(super) async fn run(
    session: &Session,
    id: String,
    consent: Consent,
    output: OutputArg,
) -> Result<(), Failure> {
    confirm(
        consent,
        &format!("Stop the deployment {id}? What runs on devices is killed."),
    )
    .await?;
    let client = session.connect().await?;
    let whole_id = resolve(&client, &id).await?;
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
    printer.list(&[DeploymentView::from(deployment)])?;
    if stopping && printer.for_people() {
        print_note(&format!(
            "Some devices have not answered yet; watch them with `kernexctl deployment watch {id}`."
        ));
    }
    Ok(())
}
