//! `deploy --plan`: which devices would run it and which would fail, before anything is changed.

use kernex_proto::v1;

use crate::{
    client::Client,
    error::{Exit, Failure},
    output::{Printer, Time, plan::PlanView, print_note},
};

/// Asks the devices, prints their answers, and fails when a device would fail.
pub(super) async fn run(
    client: &Client,
    deployment: v1::CreateDeploymentRequest,
    printer: Printer,
) -> Result<(), Failure> {
    let request = v1::PlanDeploymentRequest {
        deployment: Some(deployment),
    };
    let plan = client.plans().plan_deployment(request).await?.into_inner();
    let devices: Vec<PlanView> = plan.devices.into_iter().map(PlanView::from).collect();
    printer.list(&devices)?;
    if let Some(at) = Time::from_wire(plan.opens_at) {
        print_note(&format!("Nothing would begin before {at}."));
    }
    verdict(&plan.bundle, &devices)
}

fn verdict(bundle: &str, devices: &[PlanView]) -> Result<(), Failure> {
    let failing = devices.iter().filter(|plan| plan.would_fail()).count();
    let unknown = devices.iter().filter(|plan| plan.is_unknown()).count();
    let all = devices.len();
    if unknown > 0 {
        print_note(&format!(
            "{unknown} of {all} devices could not be asked; a deployment waits for them until its delivery timeout."
        ));
    }
    if failing > 0 {
        return Err(Failure::new(
            Exit::DeploymentFailed,
            format!("{bundle} would fail on {failing} of {all} devices"),
            "See the notes above; nothing was changed.",
        ));
    }
    print_note("Nothing was changed. Leave `--plan` out to deploy.");
    Ok(())
}
