//! What the verbs that steer a deployment print: its state now, and the next step.

use kernex_proto::v1;

use crate::{
    args::deployment::SteerArgs,
    commands::present,
    error::Failure,
    output::{Printer, deployment::DeploymentView, print_note},
};

/// Prints the deployment and, for people, the next step.
pub(super) fn print(
    args: &SteerArgs,
    deployment: Option<v1::Deployment>,
    next: &str,
) -> Result<(), Failure> {
    let printer = Printer::new(args.output.output);
    let deployment = present(deployment, "deployment")?;
    printer.row(&DeploymentView::from(deployment))?;
    if printer.for_people() {
        print_note(next);
    }
    Ok(())
}
