//! `deployment rollback`: return the devices of a deployment to what they ran before it.

use kernex_proto::v1;

use super::{resolve::resolve, watch};
use crate::{
    args::rollback::RollbackArgs,
    client::request_id,
    commands::{Session, confirm, present},
    error::{Exit, Failure},
    output::{
        Printer, print_note,
        rollback::{RollbackView, StepView},
    },
};

/// Plans or orders a rollback, and watches it with `--watch`.
pub(super) async fn run(session: &Session, args: RollbackArgs) -> Result<(), Failure> {
    let client = session.connect().await?;
    let rolled_back = resolve(&client, &args.id).await?;
    if !args.plan {
        confirm(
            args.consent,
            &format!(
                "Return the devices of the deployment {} to what they ran before it?",
                args.id
            ),
        )
        .await?;
    }
    let request = v1::RollbackDeploymentRequest {
        deployment_id: rolled_back.clone(),
        plan: args.plan,
        delivery_timeout_seconds: args.order.delivery_seconds(),
        execution_timeout_seconds: args.order.execution_seconds(),
        request_id: request_id(),
        message: args.order.message(),
    };
    let answer = client
        .deployments()
        .rollback_deployment(request)
        .await?
        .into_inner();
    let printer = Printer::new(args.output.output);
    let steps: Vec<StepView> = answer.steps.into_iter().map(StepView::from).collect();
    if args.plan {
        printer.list(&steps)?;
        return verdict(&rolled_back, &steps);
    }
    let deployment = present(answer.deployment, "deployment")?;
    let id = deployment.id.clone();
    if printer.for_people() {
        printer.list(&steps)?;
        print_note(&format!("Deployment {id} rolls {rolled_back} back."));
    }
    if args.order.watch {
        return watch::show(&client, &id, args.order.timeout, printer).await;
    }
    if printer.for_people() {
        print_note(&format!("Watch it with `kernexctl deployment watch {id}`."));
        return Ok(());
    }
    printer.one(&RollbackView::new(deployment, steps))
}

fn verdict(id: &str, steps: &[StepView]) -> Result<(), Failure> {
    if steps.iter().any(StepView::goes_back) {
        print_note("Nothing was changed. Leave `--plan` out to roll back.");
        return Ok(());
    }
    Err(Failure::new(
        Exit::NotFoundOrConflict,
        format!("no device of the deployment {id} can go back"),
        "See the reasons above; nothing was changed.",
    ))
}
